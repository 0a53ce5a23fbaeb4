"""Fine-tuning from sound files to records: a small Transformer learns tones; what stops goes on as if it had not."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from carrara.bench.config import BenchConfig
from carrara.bench.finetune import loop as finetune
from carrara.bench.finetune.settings import FinetuneSettings
from carrara.bench.protocols._base import ProtocolInputs
from carrara.bench.protocols.unconstrained import PROTOCOL
from carrara.bench.run import bench
from carrara.bench.task_types import REGISTRY as TASK_TYPES
from carrara.bench.task_types import multiclass
from carrara.core.clip import Clip
from carrara.core.errors import DataError, StoreError, UsageError
from carrara.core.task import Task
from carrara.data._base import Dataset
from carrara.encoders._hub.load import build_encoder
from carrara.encoders._hubert.network import HubertEncoder, hubert_card
from carrara.encoders.mert import MertSettings

RATE = 2000
PITCHES = {"low": 125.0, "middle": 250.0, "high": 500.0}
SIDES = {"train": 18, "valid": 9, "test": 9}
SMALL = {
    "sample_rate": RATE,
    "conv_channels": 16,
    "conv_kernels": (16, 4),
    "conv_strides": (10, 4),
    "dim": 32,
    "num_layers": 2,
    "num_heads": 4,
    "ffn_dim": 32,
    "position_kernel": 8,
    "position_groups": 4,
}
FAST = {"learning_rate": 3e-3, "encoder_learning_rate": 3e-3, "batch": 6, "epochs": 6}


class Tones(Dataset):
    """Tones of three pitches that beat twice a second, loud for half a second, soft for half."""

    name = "tones"
    title = license = citation = source = ""
    commercial_use = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def root(self, data_dir=None):
        return self.folder

    def index(self, root):
        return [
            Clip(
                f"tone-{number:02}",
                root / f"{number}.wav",
                labels={"pitch": list(PITCHES)[number % 3], "beats": [0.25, 0.75]},
            )
            for number in range(sum(SIDES.values()))
        ]

    def splits(self, root):
        sides = [side for side, count in SIDES.items() for _ in range(count)]
        return {"all": {clip.id: side for clip, side in zip(self.index(root), sides)}}


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tones")
    for number, clip in enumerate(Tones(folder).index(folder)):
        time = np.arange(RATE) / RATE
        sound = 0.3 * np.sin(2 * np.pi * PITCHES[clip.labels["pitch"]] * time + number)
        sound *= 0.05 + (time % 0.5 > 0.23) * (time % 0.5 < 0.3)
        sound += 0.02 * np.random.default_rng(number).standard_normal(RATE)
        soundfile.write(clip.path, sound.astype(np.float32), RATE)
    return Tones(folder)


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("carrara.bench.protocols.unconstrained.HIDDEN", 16)


def encoder(seed=3, **changes):
    settings = MertSettings(**SMALL | changes)
    return HubertEncoder(settings, hubert_card("small", settings, window_seconds=30.0), seed).eval()


def task(**changes):
    values = {
        "version": 1,
        "dataset": "tones",
        "split_scheme": "all",
        "task_type": "multiclass",
        "label": "pitch",
        "labels": tuple(PITCHES),
        "metrics": ("accuracy",),
        "monitor": "accuracy",
        "category": "score",
        "name": "tones/pitch",
    }
    return Task(**values | changes)


BEATS = {
    "task_type": "beat_tracking",
    "label": "beats",
    "labels": ("beat",),
    "metrics": ("beat_f_70ms",),
    "monitor": "beat_f_70ms",
    "window_seconds": 0.5,
}


def run(tones, row=None, heard=None, seeds=(1234,), **settings):
    row = row or task()
    clips = {side: [clip for clip in tones.clips(tones.folder, "all") if clip.split == side] for side in SIDES}
    closed = lambda: pytest.fail("no frozen features are asked for")  # noqa: E731
    given = ProtocolInputs(
        row,
        TASK_TYPES.get(row.task_type),
        heard or encoder(),
        clips,
        closed,
        closed,
        seeds,
        "cpu",
        FinetuneSettings(**FAST | settings),
    )
    return PROTOCOL.run(given)


def test_a_record_says_what_was_done_and_nothing_is_left_behind(tones, tmp_path):
    heard = encoder()
    before = copy.deepcopy(heard.state_dict())
    rules = BenchConfig(protocol="unconstrained", settings=FAST, seeds=(1, 2))
    record = bench(heard, [task()], results=tmp_path / "results", config=rules, datasets={"tones": tones})[0]
    assert record.protocol.name.startswith("unconstrained:batch=6,") and record.protocol.tried == 2
    assert {point.layer for point in record.grid} == {"fine-tuned"} and {p.seed for p in record.grid} == {1, 2}
    assert record.protocol.chosen["mode"] == "full" and record.protocol.chosen["learning_rate"] == 3e-3
    assert record.protocol.chosen["epoch"] == record.grid[0].epoch < record.grid[0].epochs <= 6
    assert record.scores["accuracy"].n == SIDES["test"] and len(record.scores["accuracy"].by_seed) == 2
    assert not list((tmp_path / "home" / "finetune").glob("*"))
    assert not heard.training and all(parameter.requires_grad for parameter in heard.parameters())
    assert heard.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in heard.state_dict().items())


def losses_of(monkeypatch):
    found = []
    saw = finetune.ProbeHistory.update
    monkeypatch.setattr(finetune.ProbeHistory, "saw", lambda course, *one: found.append(one) or saw(course, *one))
    return found


def test_a_network_that_learns_gets_further_than_one_that_hardly_may(tones, monkeypatch):
    found = losses_of(monkeypatch)
    rates = {"learning_rate": 1e-2, "layer_decay": 1.0, "freeze_front": False, "epochs": 10}
    run(tones, encoder_learning_rate=1e-2, **rates)
    learned = [loss for loss, _ in found]
    found.clear()
    run(tones, encoder_learning_rate=1e-12, **rates)
    frozen = [loss for loss, _ in found]
    # With one hidden layer on random features the same probe, data and steps are not enough.
    assert learned[-1] < 0.2 * learned[0]
    assert frozen[-1] > 0.5 * frozen[0]


@pytest.mark.parametrize("aggregate", ["embedding", "logit", "ensemble", "window"])
def test_clips_of_several_windows_are_answered_in_every_way(tones, aggregate):
    scores = ("accuracy_windows",) if aggregate == "window" else ("accuracy",)
    row = task(window_seconds=0.5, aggregate=aggregate, scores=scores, watch=scores[0], max_epochs=2)
    outcome = run(tones, row)
    assert len(outcome.answers[0]) == SIDES["test"]
    assert ("windows" in outcome.chosen[0]) == (aggregate == "ensemble")
    if aggregate == "window":
        assert all(len(one) == 2 for one in outcome.answers[0])


def test_beats_are_learned_from_excerpts_and_answered_over_whole_clips(tones, monkeypatch):
    found = losses_of(monkeypatch)
    outcome = run(tones, task(**BEATS), epochs=3)
    assert found[-1][0] < found[0][0]
    assert len(outcome.answers[0]) == SIDES["test"] and all(np.ndim(times) == 1 for times in outcome.answers[0])


class Killed(Exception):
    """What stops a run in a test."""


@pytest.mark.parametrize("aggregate", ["embedding", "logit"])
def test_a_run_that_was_killed_ends_as_one_that_was_not(tones, tmp_path, monkeypatch, aggregate):
    found = losses_of(monkeypatch)
    row = task(window_seconds=0.5, aggregate=aggregate, max_epochs=4)
    # With dropout in the encoder, so that the draws of a step must be the same too.
    assert encoder().settings.dropout > 0 and encoder().settings.layerdrop > 0
    whole_run = run(tones, row, seeds=(5, 6))
    undisturbed = list(found)
    found.clear()
    steps, step = [], finetune._step
    per_epoch = len(undisturbed) and -(-SIDES["train"] * (2 if aggregate == "logit" else 1) // FAST["batch"])

    def deadly(*given):
        steps.append(1)
        if len(steps) == 6 * per_epoch + 2:
            raise Killed
        step(*given)

    monkeypatch.setattr(finetune, "_step", deadly)
    with pytest.raises(Killed):
        run(tones, row, seeds=(5, 6))
    assert len(list((tmp_path / "home" / "finetune").glob("*/last.pt"))) == 2
    assert found == undisturbed[:6]
    resumed = run(tones, row, seeds=(5, 6))
    assert found == undisturbed
    assert resumed.grid == whole_run.grid and resumed.chosen == whole_run.chosen
    assert resumed.answers == whole_run.answers
    assert not list((tmp_path / "home" / "finetune").glob("*"))


def test_a_damaged_file_to_go_on_from_is_named(tones, tmp_path, monkeypatch):
    monkeypatch.setattr("carrara.bench.protocols.unconstrained.shutil.rmtree", lambda *given, **named: None)
    run(tones, epochs=1)
    (path,) = (tmp_path / "home" / "finetune").glob("*/last.pt")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(StoreError, match=r"last\.pt: cannot be gone on from .*remove it"):
        run(tones, epochs=1)


def test_another_question_does_not_go_on_from_this_one(tones, tmp_path, monkeypatch):
    monkeypatch.setattr("carrara.bench.protocols.unconstrained.shutil.rmtree", lambda *given, **named: None)
    found = losses_of(monkeypatch)
    run(tones, epochs=1)
    run(tones, epochs=1)
    assert len(found) == 1, "the same question was done"
    for changes in ({"epochs": 2}, {"seeds": (7,)}, {"heard": encoder(seed=4)}):
        found.clear()
        run(tones, **{"epochs": 1, **changes})
        assert len(found) == changes.get("epochs", 1)


def test_the_test_side_is_read_after_every_choice(tones, monkeypatch):
    order, truths, saw = [], multiclass.TASK_TYPE.truths, finetune.ProbeHistory.update
    monkeypatch.setattr(finetune.ProbeHistory, "saw", lambda *given: order.append("epoch") or saw(*given))

    def watched(row, clips):
        order.append(clips[0].split)
        return truths(row, clips)

    object.__setattr__(multiclass.TASK_TYPE, "truths", watched)
    try:
        run(tones, epochs=2, seeds=(1, 2))
    finally:
        object.__setattr__(multiclass.TASK_TYPE, "truths", truths)
    assert order.count("epoch") == 4 and order.count("test") == 1 and order[-1] == "test"


def test_a_loss_that_is_not_finite_ends_the_run_with_the_cure(tones):
    with pytest.raises(DataError, match=r"tones/pitch.*not finite in epoch \d+; lower the rates.*--set"):
        run(tones, learning_rate=1e30, encoder_learning_rate=1e30, warmup=0.0)


def test_a_file_that_cannot_be_heard_is_named(tones, tmp_path):
    (tmp_path / "tones").mkdir()
    for path in tones.folder.glob("*.wav"):
        (tmp_path / "tones" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "tones" / "4.wav").write_bytes(b"no sound")
    with pytest.raises(DataError, match=r"4\.wav: .*--partial"):
        run(Tones(tmp_path / "tones"), epochs=1)
    soundfile.write(tmp_path / "tones" / "4.wav", np.zeros(RATE, np.float32), RATE)
    (tmp_path / "tones" / "20.wav").write_bytes(b"")
    with pytest.raises(DataError, match=r"20\.wav: .*--partial"):
        run(Tones(tmp_path / "tones"), epochs=1)


@pytest.mark.parametrize("name", ["noise", "chroma-mfcc"])
def test_what_has_no_weights_is_refused(tones, name):
    with pytest.raises(UsageError, match=rf"{name}: has no weights.*--protocol constrained"):
        run(tones, heard=build_encoder(name))


def test_an_answer_that_no_probe_gives_is_refused(tones, monkeypatch):
    monkeypatch.setitem(multiclass.TASK_TYPE.__dict__, "run", lambda inputs: None)
    with pytest.raises(
        UsageError, match="'tones/pitch': multiclass cannot be fine-tuned on; use --protocol constrained"
    ):
        run(tones)
