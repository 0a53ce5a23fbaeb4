"""Fine-tuning from audio files to records: a small Transformer learns tones; an interrupted run resumes unchanged."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from carrara.bench.config import BenchConfig
from carrara.bench.finetune.settings import FineTuneSettings
from carrara.bench.probes.lr_schedule import ProbeHistory
from carrara.bench.protocols._base import ProtocolInputs
from carrara.bench.protocols.unconstrained import PROTOCOL
from carrara.bench.run import bench
from carrara.bench.split_data import LabelledSplit, SplitData
from carrara.bench.task_types import REGISTRY as TASK_TYPES
from carrara.core.clip import Clip
from carrara.core.errors import DataError, StoreError, UsageError
from carrara.core.task import Task
from carrara.data._base import Dataset
from carrara.encoders._hub.load import build_encoder
from carrara.encoders._hubert.network import HubertEncoder, hubert_card
from carrara.encoders.mert import MertSettings

RATE = 2000
PITCHES = {"low": 125.0, "middle": 250.0, "high": 500.0}
SPLIT_SIZES = {"train": 18, "valid": 9, "test": 9}
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
            for number in range(sum(SPLIT_SIZES.values()))
        ]

    def splits(self, root):
        splits = [split for split, count in SPLIT_SIZES.items() for _ in range(count)]
        return {"all": {clip.id: split for clip, split in zip(self.index(root), splits)}}


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


def small_encoder(seed=3, **changes):
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


def run(tones, row=None, encoder=None, seeds=(1234,), **settings):
    """Return the result of the protocol, and each seed's predictions for the test clips."""
    row = row or task()
    task_type = TASK_TYPES.get(row.task_type)
    clips = {split: [clip for clip in tones.clips(tones.folder, "all") if clip.split == split] for split in SPLIT_SIZES}
    train, valid = (
        LabelledSplit(clips[split], truths=task_type.truths(row, clips[split])) for split in ("train", "valid")
    )
    settings = FineTuneSettings(**FAST | settings)
    encoder = encoder or small_encoder()
    assert PROTOCOL.window_spec(row, task_type, encoder.card, settings) is None, "it reads audio"
    result = PROTOCOL.run(ProtocolInputs(row, task_type, encoder, train, valid, settings, seeds))
    return result, result.predictor.predict(SplitData(clips["test"]))


def test_a_record_states_the_settings_and_no_temporary_file_remains(tones, tmp_path):
    encoder = small_encoder()
    before = copy.deepcopy(encoder.state_dict())
    config = BenchConfig(protocol="unconstrained", settings=FAST, seeds=(1, 2))
    record = bench(encoder, [task()], results=tmp_path / "results", config=config, datasets={"tones": tones})[0]
    assert record.protocol.name.startswith("unconstrained:batch=6,") and record.protocol.tried == 2
    assert {point.layer for point in record.grid} == {"fine-tuned"} and {p.seed for p in record.grid} == {1, 2}
    assert record.protocol.chosen["mode"] == "full" and record.protocol.chosen["learning_rate"] == 3e-3
    assert record.protocol.chosen["epoch"] == record.grid[0].epoch < record.grid[0].epochs <= 6
    assert record.scores["accuracy"].n == SPLIT_SIZES["test"] and len(record.scores["accuracy"].by_seed) == 2
    assert not list((tmp_path / "home" / "finetune").glob("*"))
    assert not encoder.training and all(parameter.requires_grad for parameter in encoder.parameters())
    assert encoder.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


def losses_of(monkeypatch):
    losses = []
    update = ProbeHistory.update
    monkeypatch.setattr(ProbeHistory, "update", lambda own, *epoch: losses.append(epoch) or update(own, *epoch))
    return losses


def test_fine_tuning_scores_higher_than_an_almost_frozen_network(tones, monkeypatch):
    losses = losses_of(monkeypatch)
    rates = {"learning_rate": 1e-2, "layer_decay": 1.0, "freeze_front": False, "epochs": 10}
    run(tones, encoder_learning_rate=1e-2, **rates)
    learned = [loss for loss, _ in losses]
    losses.clear()
    run(tones, encoder_learning_rate=1e-12, **rates)
    frozen = [loss for loss, _ in losses]
    # With one hidden layer on random features the same probe, data and steps are not enough.
    assert learned[-1] < 0.2 * learned[0]
    assert frozen[-1] > 0.5 * frozen[0]


@pytest.mark.parametrize("aggregate", ["embedding", "logit", "ensemble", "window"])
def test_clips_of_several_windows_are_predicted_in_every_way(tones, aggregate):
    monitor = "accuracy_windows" if aggregate == "window" else "accuracy"
    row = task(window_seconds=0.5, aggregate=aggregate, metrics=(monitor,), monitor=monitor, max_epochs=2)
    result, (predictions,) = run(tones, row)
    assert len(predictions) == SPLIT_SIZES["test"]
    assert ("windows" in result.chosen[0]) == (aggregate == "ensemble")
    if aggregate == "window":
        assert all(len(windows) == 2 for windows in predictions)


def test_beats_are_learned_from_excerpts_and_predicted_for_whole_clips(tones, monkeypatch):
    losses = losses_of(monkeypatch)
    _, (predictions,) = run(tones, task(**BEATS), epochs=3)
    assert losses[-1][0] < losses[0][0]
    assert len(predictions) == SPLIT_SIZES["test"] and all(np.ndim(times) == 1 for times in predictions)


class Killed(Exception):
    """Interrupts a run in a test."""


@pytest.mark.slow
@pytest.mark.parametrize("aggregate", ["embedding", "logit"])
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(tones, tmp_path, monkeypatch, aggregate):
    losses = losses_of(monkeypatch)
    row = task(window_seconds=0.5, aggregate=aggregate, max_epochs=4)
    # With dropout in the encoder, so that the random draws of a step must be the same too.
    assert small_encoder().settings.dropout > 0 and small_encoder().settings.layerdrop > 0
    complete, complete_predictions = run(tones, row, seeds=(5, 6))
    uninterrupted = list(losses)
    losses.clear()
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "another-home"))
    steps, step = [], torch.optim.AdamW.step
    steps_per_epoch = -(-SPLIT_SIZES["train"] * (2 if aggregate == "logit" else 1) // FAST["batch"])

    def deadly(*arguments, **options):
        steps.append(1)
        if len(steps) == 6 * steps_per_epoch + 2:
            raise Killed
        return step(*arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", deadly)
    with pytest.raises(Killed):
        run(tones, row, seeds=(5, 6))
    assert len(list((tmp_path / "another-home" / "finetune").glob("*/last.pt"))) == 2
    assert losses == uninterrupted[:6]
    resumed, resumed_predictions = run(tones, row, seeds=(5, 6))
    assert losses == uninterrupted
    assert resumed.grid == complete.grid and resumed.chosen == complete.chosen
    assert resumed_predictions == complete_predictions
    assert {folder.name for folder in resumed.checkpoints} == {
        path.name for path in (tmp_path / "another-home" / "finetune").glob("*")
    }


def test_a_damaged_checkpoint_is_named(tones, tmp_path):
    run(tones, epochs=1)
    (path,) = (tmp_path / "home" / "finetune").glob("*/last.pt")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(StoreError, match=r"last\.pt: cannot be resumed from .*remove it"):
        run(tones, epochs=1)


def test_another_training_does_not_resume_from_this_one(tones, tmp_path, monkeypatch):
    losses = losses_of(monkeypatch)
    run(tones, epochs=1)
    run(tones, epochs=1)
    assert len(losses) == 1, "the same training is complete"
    for changes in ({"epochs": 2}, {"seeds": (7,)}, {"encoder": small_encoder(seed=4)}):
        losses.clear()
        run(tones, **{"epochs": 1, **changes})
        assert len(losses) == changes.get("epochs", 1)


def test_a_loss_that_is_not_finite_ends_the_run_with_the_cure(tones):
    with pytest.raises(DataError, match=r"tones/pitch.*not finite in epoch \d+; lower the rates.*--set"):
        run(tones, learning_rate=1e30, encoder_learning_rate=1e30, warmup_fraction=0.0)


def test_a_file_that_cannot_be_decoded_is_named(tones, tmp_path):
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
        run(tones, encoder=build_encoder(name))


def test_a_task_that_no_probe_can_learn_is_refused(tones):
    covers = task(task_type="retrieval", labels=("similarity",), metrics=("map",), monitor="map")
    with pytest.raises(UsageError, match="'tones/pitch': retrieval trains no probe; use --protocol constrained"):
        run(tones, covers)
    stems = task(task_type="source_separation", labels=("vocals",), metrics=("sdr",), monitor="sdr")
    with pytest.raises(UsageError, match="source separation trains on windows; set window_seconds"):
        run(tones, stems)


def test_an_undecodable_clip_is_excluded_with_partial(tones, tmp_path):
    (tmp_path / "tones").mkdir()
    for path in tones.folder.glob("*.wav"):
        (tmp_path / "tones" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "tones" / "4.wav").write_bytes(b"no sound")
    config = BenchConfig(protocol="unconstrained", settings=FAST | {"epochs": 1})
    datasets = {"tones": Tones(tmp_path / "tones")}
    with pytest.raises(DataError, match=r"1 clips cannot be decoded.*4\.wav.*--partial"):
        bench(small_encoder(), [task()], results=tmp_path / "results", config=config, datasets=datasets)
    record = bench(
        small_encoder(), [task()], results=tmp_path / "results", config=config, datasets=datasets, partial=True
    )[0]
    assert record.partial and record.data.missing == ("tone-04",)
    assert record.data.n == SPLIT_SIZES | {"train": 17}
