"""The parts of fine-tuning against closed forms: rates by layer, gradients, adapters, windows and padding."""

from __future__ import annotations

import builtins
from dataclasses import dataclass

import numpy as np
import pytest
import soundfile
import torch
from torch.nn import functional

from carrara.bench.finetune import loop as finetune
from carrara.bench.finetune.excerpts import Draw, batches, excerpts
from carrara.bench.finetune.lora import attention_maps
from carrara.bench.finetune.model import Tunable
from carrara.bench.finetune.settings import FinetuneSettings
from carrara.bench.probes.lr_schedule import Plateau, ProbeHistory
from carrara.bench.probes.probe import ProbeShape
from carrara.bench.task_types import REGISTRY as TASK_TYPES
from carrara.core.clip import Clip
from carrara.core.errors import StoreError, UsageError
from carrara.core.task import Task
from carrara.encoders._hubert.network import HubertEncoder, HubertSettings, hubert_card

RATE, STRIDE, CLASSES = 2000, 40, 3
CALM = {"dropout": 0.0, "attention_dropout": 0.0, "input_dropout": 0.0, "layerdrop": 0.0, "conv_gradient": 1.0}
SHAPE = ProbeShape(width=32, hidden=16, outputs=CLASSES, dropout=0.0, mixed=4)


def network(**changes):
    settings = HubertSettings(
        sample_rate=RATE,
        conv_channels=16,
        conv_kernels=(16, 4),
        conv_strides=(10, 4),
        dim=32,
        num_layers=3,
        num_heads=4,
        ffn_dim=32,
        position_kernel=8,
        position_groups=4,
        **CALM | changes,
    )
    return HubertEncoder(settings, hubert_card("small", settings, window_seconds=0.8), 3).eval()


def task(**changes):
    values = {
        "version": 1, "dataset": "d", "split_scheme": "s", "task_type": "multiclass",
        "label": "class", "labels": ("a", "b", "c"),
        "metrics": ("accuracy",), "monitor": "accuracy", "category": "score", "name": "d/class"
    }  # fmt: skip
    return Task(**values | changes)


BEATS = {
    "task_type": "beat_tracking",
    "label": "beats",
    "labels": ("beat",),
    "metrics": ("beat_f_70ms",),
    "monitor": "beat_f_70ms",
}


def recording(folder, number, seconds):
    path = folder / f"{number}.wav"
    noise = 0.1 * np.random.default_rng(number).standard_normal(round(seconds * RATE))
    soundfile.write(path, noise.astype(np.float32), RATE, subtype="FLOAT")
    return Clip(str(number), path, labels={"class": "abc"[number % 3], "beats": [0.3, 0.9, 1.1, 1.9]})


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    return [recording(folder, number, seconds) for number, seconds in enumerate((1.0, 0.7, 2.1, 1.6, 0.9, 1.0))]


def model(how=None, frames=False, shape=SHAPE, **changes):
    return Tunable(network(**changes), shape, frames, how or FinetuneSettings(), seed=1)


@dataclass
class Run:
    """A training: the model, its weights before and after, its course, and each step's gradients."""

    model: Tunable
    before: dict[str, torch.Tensor]
    after: dict[str, torch.Tensor]
    course: ProbeHistory
    gradients: list[list[torch.Tensor]]


def trained(clips, folder, how, row=None, course=None, watched=lambda tuning: 0.5):
    row = row or task()
    answer = TASK_TYPES.get(row.task_type)
    one = model(how, answer.frame_level, ProbeShape(32, 16, answer.outputs(row), 0.0, 4))
    before = {name: tensor.clone() for name, tensor in one.state_dict().items()}
    examples = excerpts(one.encoder, row, answer, None, clips)
    draw = Draw(how.batch, how.accumulation_steps, 7)
    lesson = finetune.Lesson(
        row.name,
        lambda epoch: batches(examples, draw, epoch, RATE),
        draw.steps(len(examples)),
        answer.loss,
        lambda one: (watched(tuning), ""),
    )
    tuning = finetune.begun(one, course or ProbeHistory(Plateau(1.0, 5), 20, 1), how, 7, "cpu", folder)
    steps = []
    groups = tuning.optimiser.param_groups
    tuning.optimiser.register_step_pre_hook(
        lambda *given: steps.append([p.grad.clone() for group in groups for p in group["params"] if p.grad is not None])
    )
    finetune.tune(tuning, lesson)
    return Run(one, before, one.state_dict(), tuning.course, steps)


def test_adams_first_step_moves_every_layer_by_its_own_rate(clips, tmp_path):
    how = FinetuneSettings(
        learning_rate=1e-3, encoder_learning_rate=4e-3, layer_decay=0.5, weight_decay=0.0, warmup_fraction=0.0,
        freeze_front=False
    )  # fmt: skip
    run = trained(clips, tmp_path, how)
    before, after = run.before, run.after
    moved = {name: (after[name] - before[name]).abs().max().item() for name in before}
    # Adam's first step is rate × g / (|g| + ε), so the largest of many moves is the rate.
    for place, share in enumerate((0.25, 0.5, 1.0)):
        for part in ("attention.v_proj.weight", "feed_forward.output_dense.weight"):
            assert moved[f"encoder.encoder.layers.{place}.{part}"] == pytest.approx(4e-3 * share, rel=0.01)
    for part in ("feature_extractor.conv_layers.0.conv.weight", "feature_projection.projection.weight"):
        assert moved[f"encoder.{part}"] == pytest.approx(4e-3 * 0.125, rel=0.01)
    assert moved["head.outer_weight"] == pytest.approx(1e-3, rel=0.01)


def test_rates_rise_over_the_warm_up_and_halve_on_a_plateau(clips, tmp_path):
    how = FinetuneSettings(batch=3, warmup_fraction=0.5, learning_rate=0.8e-3)
    rates = []

    def watched(tuning):
        rates.append([group["lr"] / group["rate"] for group in tuning.optimiser.param_groups])
        return 0.5

    trained(clips, tmp_path, how, course=ProbeHistory(Plateau(1.0, 1), 20, 6), watched=watched)
    # Six epochs of two steps, six of them warm-up; the score never rises after the first epoch.
    assert np.allclose(rates, np.array([2 / 6, 4 / 6, 6 / 6, 1 / 2, 1 / 2, 1 / 4])[:, None])


def test_the_front_end_stays_where_it_is_frozen(clips, tmp_path):
    run = trained(clips, tmp_path, FinetuneSettings(encoder_learning_rate=1e-2))
    before, after = run.before, run.after
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if "feature_extractor" in name} | {"encoder.masked_spec_embed"}


def gradients(one, clips):
    one.train()
    torch.manual_seed(0)
    samples_BT = torch.stack([torch.from_numpy(soundfile.read(clips[i].path, dtype="float32")[0]) for i in (0, 5)])
    loss = functional.cross_entropy(one(samples_BT, torch.tensor([RATE, RATE])), torch.tensor([0, 2]))
    loss.backward()
    return {name: parameter.grad for name, parameter in one.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_checkpointing_changes_no_gradient(clips, mode):
    if mode == "lora":
        pytest.importorskip("peft")
    noisy = {"dropout": 0.2, "attention_dropout": 0.2}
    plain = gradients(model(FinetuneSettings(mode=mode), **noisy), clips)
    again = gradients(model(FinetuneSettings(mode=mode, activation_checkpointing=True), **noisy), clips)
    assert plain.keys() == again.keys() and len(plain) > 10
    assert all(torch.equal(plain[name], again[name]) for name in plain)


def apart(one, other):
    """Return the distance of two gradients as a share of the first's length."""
    first, second = (torch.cat([part.flatten() for part in parts]) for parts in (one, other))
    return ((first - second).norm() / first.norm()).item()


@pytest.mark.parametrize(
    "row",
    [
        task(),
        task(window_seconds=0.5, aggregate="logit"),
        task(**{**BEATS, "window_seconds": 0.5}),
    ],
    ids=["clips", "windows", "frames"],
)
def test_gradients_that_are_added_up_equal_those_of_the_larger_batch(clips, tmp_path, monkeypatch, row):
    monkeypatch.setattr(finetune, "CLIP", float("inf"))
    large = trained(clips, tmp_path / "1", FinetuneSettings(batch=4), row=row)
    small = trained(clips, tmp_path / "2", FinetuneSettings(batch=1, accumulation_steps=4), row=row)
    assert large.course.losses == pytest.approx(small.course.losses, rel=1e-5)
    assert len(large.gradients) == len(small.gradients) > 1
    assert apart(large.gradients[0], small.gradients[0]) < 1e-5


def test_padding_changes_neither_loss_nor_gradient(clips, tmp_path, monkeypatch):
    """Two clips of unequal length in one batch give the mean of what each gives alone."""
    monkeypatch.setattr(finetune, "CLIP", float("inf"))
    row = task(window_seconds=5.0)
    both = trained(clips[1:3], tmp_path / "both", FinetuneSettings(batch=2), row)
    alone = [trained([clip], tmp_path / clip.id, FinetuneSettings(batch=1), row) for clip in clips[1:3]]
    assert both.course.losses[0] == pytest.approx(np.mean([one.course.losses[0] for one in alone]), rel=1e-5)
    mean = [(one + other) / 2 for one, other in zip(alone[0].gradients[0], alone[1].gradients[0])]
    assert apart(both.gradients[0], mean) < 1e-5


def test_gradients_are_clipped_to_norm_one(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(finetune, "CLIP", float("inf"))
    free = trained(clips, tmp_path / "1", FinetuneSettings()).gradients[0]
    norm = torch.cat([one.flatten() for one in free]).norm()
    monkeypatch.setattr(finetune, "CLIP", norm.item() / 3)
    clipped = trained(clips, tmp_path / "2", FinetuneSettings()).gradients[0]
    assert apart([one / 3 for one in free], clipped) < 1e-4


def test_lora_trains_adapters_and_probe_only_and_is_the_sum_that_it_says(clips, tmp_path):
    pytest.importorskip("peft")
    how = FinetuneSettings(mode="lora", lora_rank=2, lora_alpha=6, learning_rate=1e-2, warmup_fraction=0.0)
    fresh, plain = model(how), network()
    samples_BT = 0.1 * torch.randn(2, RATE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(fresh.eval().encoder(samples_BT), plain(samples_BT)), "B begins at zero"
    learning = {name: one.numel() for name, one in fresh.named_parameters() if one.requires_grad}
    assert all(".lora_" in name or name.startswith("head.") for name in learning)
    # A and B of rank 2 on four maps from 32 to 32 in three layers.
    assert sum(size for name, size in learning.items() if ".lora_" in name) == 3 * 4 * 2 * (32 + 32)
    run = trained(clips, tmp_path, how)
    changed = {name for name in run.before if not torch.equal(run.before[name], run.after[name])}
    assert changed and all(".lora_" in name or name.startswith("head.") for name in changed)
    assert {name.partition(".lora_")[0] for name in changed if ".lora_" in name} == {
        f"encoder.encoder.layers.{layer}.attention.{part}_proj" for layer in range(3) for part in ("q", "k", "v", "out")
    }
    weights = dict(plain.named_parameters())
    with torch.no_grad():
        for name in attention_maps(plain):
            down, up = (run.after[f"encoder.{name}.lora_{which}.default.weight"] for which in "AB")
            weights[f"{name}.weight"] += 6 / 2 * up @ down
        assert torch.allclose(run.model.eval().encoder(samples_BT), plain(samples_BT), atol=1e-5)


def test_lora_without_peft_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *given, **named):
        if name == "peft":
            raise ImportError(name)
        return real(name, *given, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"needs peft; pip install 'carrara\[finetune\]'"):
        model(FinetuneSettings(mode="lora"))


def test_a_disk_without_room_is_named_and_leaves_no_half_a_file(clips, tmp_path):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(StoreError, match=r"last\.pt: cannot write here"):
            trained(clips, tmp_path, FinetuneSettings())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_what_is_remembered_is_the_best_epoch(clips, tmp_path):
    scores, seen, kept = [0.1, 0.7, 0.2, 0.6], [], []

    def watched(tuning):
        kept.append(tuning)
        seen.append({name: tensor.clone() for name, tensor in tuning.model.state_dict().items()})
        return scores[len(seen) - 1]

    trained(clips, tmp_path, FinetuneSettings(), course=ProbeHistory(Plateau(1.0, 5), 20, 4), watched=watched)
    recalled = finetune.recall_best(kept[-1])
    assert not recalled.training and kept[-1].course.best_epoch == 1
    for name, tensor in recalled.state_dict().items():
        assert torch.equal(tensor, seen[1][name])
    assert not torch.equal(seen[1]["head.outer_weight"], seen[3]["head.outer_weight"])
