"""The parts of fine-state against closed forms: rates by layer, gradients, adapters, windows and padding."""

from __future__ import annotations

import builtins
from dataclasses import dataclass

import numpy as np
import pytest
import soundfile
import torch
from torch.nn import functional

from carrara.bench.finetune import loop
from carrara.bench.finetune.excerpts import iter_batches, list_excerpts
from carrara.bench.finetune.lora import attention_maps
from carrara.bench.finetune.model import FineTuneModel
from carrara.bench.finetune.settings import FineTuneSettings
from carrara.bench.probes.lr_schedule import Plateau, ProbeHistory
from carrara.bench.probes.probe import ProbeShape
from carrara.bench.task_types import REGISTRY as TASK_TYPES
from carrara.core.clip import Clip
from carrara.core.errors import StoreError, UsageError
from carrara.core.task import Task
from carrara.encoders._hubert.network import HubertEncoder, HubertSettings, hubert_card

RATE, STRIDE, CLASSES = 2000, 40, 3
CALM = {"dropout": 0.0, "attention_dropout": 0.0, "input_dropout": 0.0, "layerdrop": 0.0, "conv_gradient": 1.0}
SHAPE = ProbeShape(dim=32, hidden=16, outputs=CLASSES, dropout=0.0, num_summed=4)


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


def build_model(settings=None, frames=False, shape=SHAPE, **changes):
    return FineTuneModel(network(**changes), shape, frames, settings or FineTuneSettings(), seed=1)


@dataclass
class Run:
    """A training: the model, its weights before and after, its history, and each step's gradients."""

    model: FineTuneModel
    before: dict[str, torch.Tensor]
    after: dict[str, torch.Tensor]
    history: ProbeHistory
    gradients: list[list[torch.Tensor]]


def train(clips, folder, settings, own_task=None, history=None, monitor=lambda state: 0.5):
    own_task = own_task or task()
    task_type = TASK_TYPES.get(own_task.task_type)
    model = build_model(settings, task_type.frame_level, ProbeShape(32, 16, task_type.outputs(own_task), 0.0, 4))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    examples = list_excerpts(model.encoder, own_task, task_type, None, clips)
    problem = loop.FineTuneProblem(
        own_task.name,
        lambda epoch: iter_batches(examples, settings, 7, epoch, RATE),
        settings.steps_per_epoch(len(examples)),
        task_type.loss,
        lambda model: (monitor(state), ""),
    )
    state = loop.start_or_resume(model, history or ProbeHistory(Plateau(1.0, 5), 20, 1), settings, 7, "cpu", folder)
    steps = []
    groups = state.optimizer.param_groups
    state.optimizer.register_step_pre_hook(
        lambda *arguments: steps.append(
            [p.grad.clone() for group in groups for p in group["params"] if p.grad is not None]
        )
    )
    loop.fine_tune(state, problem)
    return Run(model, before, model.state_dict(), state.history, steps)


def test_adams_first_step_changes_every_layer_by_its_own_rate(clips, tmp_path):
    settings = FineTuneSettings(
        learning_rate=1e-3, encoder_learning_rate=4e-3, layer_decay=0.5, weight_decay=0.0, warmup_fraction=0.0,
        freeze_front=False
    )  # fmt: skip
    run = train(clips, tmp_path, settings)
    before, after = run.before, run.after
    moved = {name: (after[name] - before[name]).abs().max().item() for name in before}
    # Adam's first step is rate × g / (|g| + ε), so the largest of many moves is the rate.
    for layer, factor in enumerate((0.25, 0.5, 1.0)):
        for part in ("attention.v_proj.weight", "feed_forward.output_dense.weight"):
            assert moved[f"encoder.encoder.layers.{layer}.{part}"] == pytest.approx(4e-3 * factor, rel=0.01)
    for part in ("feature_extractor.conv_layers.0.conv.weight", "feature_projection.projection.weight"):
        assert moved[f"encoder.{part}"] == pytest.approx(4e-3 * 0.125, rel=0.01)
    assert moved["head.outer_weight"] == pytest.approx(1e-3, rel=0.01)


def test_rates_rise_over_the_warm_up_and_halve_on_a_plateau(clips, tmp_path):
    settings = FineTuneSettings(batch=3, warmup_fraction=0.5, learning_rate=0.8e-3)
    rates = []

    def monitor(state):
        rates.append([group["lr"] / group["rate"] for group in state.optimizer.param_groups])
        return 0.5

    train(clips, tmp_path, settings, history=ProbeHistory(Plateau(1.0, 1), 20, 6), monitor=monitor)
    # Six epochs of two steps, six of them warm-up; the score never rises after the first epoch.
    assert np.allclose(rates, np.array([2 / 6, 4 / 6, 6 / 6, 1 / 2, 1 / 2, 1 / 4])[:, None])


def test_a_frozen_front_end_does_not_change(clips, tmp_path):
    run = train(clips, tmp_path, FineTuneSettings(encoder_learning_rate=1e-2))
    before, after = run.before, run.after
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if "feature_extractor" in name} | {"encoder.masked_spec_embed"}


def gradients(model, clips):
    model.train()
    torch.manual_seed(0)
    samples_BT = torch.stack([torch.from_numpy(soundfile.read(clips[i].path, dtype="float32")[0]) for i in (0, 5)])
    loss = functional.cross_entropy(model(samples_BT, torch.tensor([RATE, RATE])), torch.tensor([0, 2]))
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_checkpointing_changes_no_gradient(clips, mode):
    if mode == "lora":
        pytest.importorskip("peft")
    noisy = {"dropout": 0.2, "attention_dropout": 0.2}
    plain = gradients(build_model(FineTuneSettings(mode=mode), **noisy), clips)
    again = gradients(build_model(FineTuneSettings(mode=mode, activation_checkpointing=True), **noisy), clips)
    assert plain.keys() == again.keys() and len(plain) > 10
    assert all(torch.equal(plain[name], again[name]) for name in plain)


def distance(gradient, other):
    """Return the distance of two gradients as a fraction of the first one's norm."""
    first, second = (torch.cat([part.flatten() for part in parts]) for parts in (gradient, other))
    return ((first - second).norm() / first.norm()).item()


@pytest.mark.parametrize(
    "own_task",
    [
        task(),
        task(window_seconds=0.5, aggregate="logit"),
        task(**{**BEATS, "window_seconds": 0.5}),
    ],
    ids=["clips", "windows", "frames"],
)
def test_accumulated_gradients_equal_those_of_the_larger_batch(clips, tmp_path, monkeypatch, own_task):
    monkeypatch.setattr(loop, "MAX_GRAD_NORM", float("inf"))
    large = train(clips, tmp_path / "1", FineTuneSettings(batch=4), own_task=own_task)
    small = train(clips, tmp_path / "2", FineTuneSettings(batch=1, accumulation_steps=4), own_task=own_task)
    assert large.history.losses == pytest.approx(small.history.losses, rel=1e-5)
    assert len(large.gradients) == len(small.gradients) > 1
    assert distance(large.gradients[0], small.gradients[0]) < 1e-5


def test_padding_changes_neither_loss_nor_gradient(clips, tmp_path, monkeypatch):
    """Two clips of unequal length in one batch give the mean of what each gives alone."""
    monkeypatch.setattr(loop, "MAX_GRAD_NORM", float("inf"))
    one_window = task(window_seconds=5.0)
    both = train(clips[1:3], tmp_path / "both", FineTuneSettings(batch=2), one_window)
    alone = [train([clip], tmp_path / clip.id, FineTuneSettings(batch=1), one_window) for clip in clips[1:3]]
    assert both.history.losses[0] == pytest.approx(np.mean([run.history.losses[0] for run in alone]), rel=1e-5)
    mean = [(first + second) / 2 for first, second in zip(alone[0].gradients[0], alone[1].gradients[0])]
    assert distance(both.gradients[0], mean) < 1e-5


def test_gradients_are_clipped_to_norm_one(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "MAX_GRAD_NORM", float("inf"))
    free = train(clips, tmp_path / "1", FineTuneSettings()).gradients[0]
    norm = torch.cat([part.flatten() for part in free]).norm()
    monkeypatch.setattr(loop, "MAX_GRAD_NORM", norm.item() / 3)
    clipped = train(clips, tmp_path / "2", FineTuneSettings()).gradients[0]
    assert distance([part / 3 for part in free], clipped) < 1e-4


def test_lora_trains_adapters_and_probe_only_and_is_the_documented_sum(clips, tmp_path):
    pytest.importorskip("peft")
    settings = FineTuneSettings(mode="lora", lora_rank=2, lora_alpha=6, learning_rate=1e-2, warmup_fraction=0.0)
    fresh, plain = build_model(settings), network()
    samples_BT = 0.1 * torch.randn(2, RATE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(fresh.eval().encoder(samples_BT), plain(samples_BT)), "B starts at zero"
    trained = {name: weight.numel() for name, weight in fresh.named_parameters() if weight.requires_grad}
    assert all(".lora_" in name or name.startswith("head.") for name in trained)
    # A and B of rank 2 on four maps from 32 to 32 in three layers.
    assert sum(size for name, size in trained.items() if ".lora_" in name) == 3 * 4 * 2 * (32 + 32)
    run = train(clips, tmp_path, settings)
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


def test_lora_without_peft_names_what_to_install(monkeypatch):
    real = builtins.__import__

    def import_without_peft(name, *arguments, **options):
        if name == "peft":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", import_without_peft)
    with pytest.raises(UsageError, match=r"needs peft; pip install 'carrara\[finetune\]'"):
        build_model(FineTuneSettings(mode="lora"))


def test_a_full_disk_is_reported_and_leaves_no_partial_file(clips, tmp_path):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(StoreError, match=r"last\.pt: cannot write here"):
            train(clips, tmp_path, FineTuneSettings())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_the_best_epoch_is_restored(clips, tmp_path):
    scores, weights, states = [0.1, 0.7, 0.2, 0.6], [], []

    def monitor(state):
        states.append(state)
        weights.append({name: tensor.clone() for name, tensor in state.model.state_dict().items()})
        return scores[len(weights) - 1]

    train(clips, tmp_path, FineTuneSettings(), history=ProbeHistory(Plateau(1.0, 5), 20, 4), monitor=monitor)
    restored = loop.restore_best(states[-1])
    assert not restored.training and states[-1].history.best_epoch == 1
    for name, tensor in restored.state_dict().items():
        assert torch.equal(tensor, weights[1][name])
    assert not torch.equal(weights[1]["head.outer_weight"], weights[3]["head.outer_weight"])
