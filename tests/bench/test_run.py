"""From sound files to records: a small dataset of tones, an encoder of band levels, the real store and protocol."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from carrara.bench.answers import any_of, one_of
from carrara.bench.ensemble import RULES
from carrara.bench.predictions import predictions_path, read_predictions
from carrara.bench.protocols import constrained
from carrara.bench.run import Rules, bench
from carrara.core.clip import Clip
from carrara.core.errors import DataError
from carrara.core.record import read_record
from carrara.core.settings import Settings
from carrara.core.task import Task
from carrara.data._base import Dataset
from carrara.encoders._base import Card, Encoder

RATE = 2000
PITCHES = {"low": 125.0, "middle": 250.0, "high": 500.0}
SIDES = {"train": 24, "valid": 12, "test": 18}


class Bands(Encoder):
    """Row 0: levels of eight bands, row 1: the same squashed; ten frames a second."""

    def __init__(self, frame_rate: float | None = 10.0) -> None:
        super().__init__()
        self.settings = Settings()
        self.card = Card(
            name="bands", sample_rate=RATE, frame_rate=frame_rate, layers=1, width=8, weights="b" * 64, parameters=0
        )

    def frames(self, samples: int) -> int:
        return max(1, samples // 200)

    def forward(self, samples_BT, lengths_B=None):
        frames = self.frames(samples_BT.shape[1])
        padded = torch.nn.functional.pad(samples_BT, (0, max(0, 200 * frames - samples_BT.shape[1])))
        spectrum = torch.fft.rfft(padded[:, : 200 * frames].unflatten(1, (frames, 200))).abs()[..., 4:100]
        levels = torch.log1p(spectrum.unflatten(-1, (8, 12)).mean(-1))
        layers = torch.stack((levels, levels.tanh()), dim=1)
        if lengths_B is not None:
            for row, length in enumerate(lengths_B.tolist()):
                layers[row, :, self.frames(int(length)) :] = 0
        return layers


class Tones(Dataset):
    """Tones of three pitches, some of them noisy."""

    name = "tones"
    title = license = citation = source = ""
    commercial_use = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def root(self, data_dir=None):
        return self.folder

    def index(self, root):
        names = list(PITCHES)
        clips = []
        for number in range(sum(SIDES.values())):
            name, noisy = names[number % 3], number % 2 == 1
            labels = {"pitch": name, "tags": [name, *(["noisy"] if noisy else [])], "height": float(number % 3)}
            clips.append(Clip(f"tone-{number:02}", root / f"{number}.wav", labels=labels))
        return clips

    def splits(self, root):
        sides = [side for side, count in SIDES.items() for _ in range(count)]
        return {"all": {clip.id: side for clip, side in zip(self.index(root), sides)}, "none": {"tone-00": "train"}}


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tones")
    for number, clip in enumerate(Tones(folder).index(folder)):
        draw = np.random.default_rng(number)
        time = np.arange(RATE) / RATE
        sound = 0.3 * np.sin(2 * np.pi * PITCHES[clip.labels["pitch"]] * time)
        sound += (0.2 if "noisy" in clip.labels["tags"] else 0.01) * draw.standard_normal(RATE)
        soundfile.write(clip.path, sound.clip(-1, 1).astype(np.float32), RATE)
    return Tones(folder)


@pytest.fixture
def ask(tones, tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constrained, "LEARNING_RATES", (1e-3, 1e-2))
    monkeypatch.setattr(constrained, "HIDDEN", 16)

    def measure(*tasks, encoder=None, limit=None, partial=False, **rules):
        return bench(
            encoder or Bands(),
            tasks,
            results=tmp_path / "results",
            rules=Rules(**rules),
            limit=limit,
            partial=partial,
            datasets={"tones": tones},
        )

    return measure


def task(answer="one-of", **changes):
    values = {
        "version": 1,
        "dataset": "tones",
        "split": "all",
        "answer": answer,
        "label": "pitch",
        "labels": tuple(PITCHES),
        "scores": ("accuracy",),
        "watch": "accuracy",
        "level": "score",
        "max_epochs": 40,
        "name": "tones/pitch",
    }
    return Task(**values | changes)


TAGS = task(
    "any-of",
    label="tags",
    labels=(*PITCHES, "noisy"),
    scores=("roc_auc", "average_precision"),
    watch="roc_auc",
    name="tones/tags",
)


def test_a_record_of_each_kind_stands_at_its_place_with_its_predictions(ask, tmp_path):
    height = task("numbers", label="height", labels=("height",), scores=("r2_height",), watch="r2", name="tones/height")
    records = ask(task(also=("accuracy",)), TAGS, height)
    assert [record.task.name for record in records] == ["tones/pitch", "tones/tags", "tones/height"]
    for record in records:
        path = record.path(tmp_path / "results")
        assert read_record(path) == record
        assert record.protocol.tried == 6 and len(record.grid) == 6
        assert {point.layer for point in record.grid} == {"0", "1", "weighted-sum"}
        assert record.data.n == SIDES and not record.partial and not record.data.missing
        best = max(point.valid for point in record.grid)
        chosen = record.protocol.chosen
        assert [
            p.valid for p in record.grid if (p.layer, p.learning_rate) == (chosen["layer"], chosen["learning_rate"])
        ] == [best]
        for score in record.scores.values():
            assert score.low <= score.value <= score.high and score.n == 18 and score.unit == "clip"
        assert {"features", "probe", "test", "intervals"} <= set(record.run.seconds)
    pitch = records[0]
    assert pitch.scores["accuracy"].value > 0.9, "tones of three pitches are easy"
    table = pq.read_table(predictions_path(pitch, tmp_path / "results")).to_pylist()
    assert [row["id"] for row in table] == [f"tone-{number:02}" for number in range(36, 54)]
    right = np.mean([json.loads(row["truth"]) == json.loads(row["answer"]) for row in table])
    assert right == pytest.approx(pitch.scores["accuracy"].value)


def test_the_same_question_is_asked_once(ask, monkeypatch):
    runs = []
    train = constrained.train_grid
    monkeypatch.setattr(constrained, "train_grid", lambda *given: runs.append(1) or train(*given))
    first = ask(task())
    assert ask(task()) == first and len(runs) == 1
    assert ask(task(), overwrite="always")[0].scores == first[0].scores and len(runs) == 2
    changed = task(max_epochs=39)
    assert ask(changed, overwrite="never") == ask(task(), overwrite="never") and len(runs) == 2
    assert ask(changed)[0].task.fingerprint != first[0].task.fingerprint and len(runs) == 3


def test_a_run_over_few_clips_is_partial_and_spares_a_whole_record(ask):
    few = ask(task(), limit=6)[0]
    assert few.partial and few.data.n == {"train": 6, "valid": 6, "test": 6}
    complete = ask(task())[0]
    assert not complete.partial
    assert ask(task(), limit=6)[0] == complete


def test_windows_become_one_clip_by_embedding_or_by_logit(ask):
    for aggregate in ("embedding", "logit"):
        cut = task(window_seconds=0.5, aggregate=aggregate, name=f"tones/{aggregate}")
        record = ask(cut)[0]
        assert record.scores["accuracy"].value > 0.8 and record.scores["accuracy"].n == 18


def test_nothing_that_chooses_reads_the_test_side(ask, monkeypatch):
    order = []
    truths, choose, metrics = one_of.ANSWER.truths, constrained.choose, one_of.ANSWER.metrics

    def watched_truths(task, clips):
        order.append("truths " + "/".join(sorted({clip.split for clip in clips})))
        return truths(task, clips)

    def watched_metrics(task, truths, answers):
        order.append(f"scored {len(truths)}")
        return metrics(task, truths, answers)

    object.__setattr__(one_of.ANSWER, "truths", watched_truths)
    object.__setattr__(one_of.ANSWER, "metrics", watched_metrics)
    monkeypatch.setattr(constrained, "choose", lambda *given: order.append("choose") or choose(*given))
    try:
        ask(task())
    finally:
        object.__setattr__(one_of.ANSWER, "truths", truths)
        object.__setattr__(one_of.ANSWER, "metrics", metrics)
    chosen = order.index("choose")
    assert {"truths train", "truths valid", f"scored {SIDES['valid']}"} == set(order[:chosen])
    assert order[chosen + 1 :].index("truths test") < order[chosen + 1 :].index(f"scored {SIDES['test']}")


def test_the_choice_is_the_same_whatever_the_test_labels_say(ask, tones, monkeypatch):
    first = ask(task())[0]
    clips = Tones.clips

    def lying(self, root, split):
        return [
            Clip(clip.id, clip.path, split="test", labels={"pitch": "low"}) if clip.split == "test" else clip
            for clip in clips(self, root, split)
        ]

    monkeypatch.setattr(Tones, "clips", lying)
    second = ask(task())[0]
    assert second.grid == first.grid and second.protocol.chosen == first.protocol.chosen
    assert second.scores != first.scores


def test_a_missing_clip_is_accepted_knowingly_and_makes_the_record_partial_until_it_is_there(ask, tones):
    gone = tones.folder / "40.wav"
    kept = gone.read_bytes()
    gone.unlink()
    try:
        with pytest.raises(DataError, match=r"tone-40.* --partial"):
            ask(task())
        record = ask(task(), partial=True)[0]
        assert record.data.missing == ("tone-40",) and record.partial and record.data.n["test"] == 17
        assert ask(task(), partial=True)[0] == record
        gone.write_bytes(b"RIFF")
        with pytest.raises(DataError, match=r"cannot be heard.*40\.wav"):
            ask(task(), overwrite="always")
        assert ask(task(), partial=True)[0].data.missing == ("tone-40",)
    finally:
        gone.write_bytes(kept)
    assert not ask(task())[0].partial


def test_too_few_clips_and_features_that_are_not_finite_say_so(ask):
    with pytest.raises(DataError, match=r"the train side of tones/none has too few clips \(1"):
        ask(task(split="none"))

    class Broken(Bands):
        def forward(self, samples_BT, lengths_B=None):
            return super().forward(samples_BT, lengths_B) * torch.nan

    with pytest.raises(DataError, match="finite"):
        ask(task(), encoder=Broken())


def test_an_encoder_without_frames_has_no_record_of_a_row_of_events(ask, capsys, tmp_path):
    beats = task("events", labels=("beat",), scores=("beat_f_70ms",), watch="beat_f_70ms", name="tones/beats")
    assert ask(beats, encoder=Bands(frame_rate=None)) == []
    assert "tones/beats: bands answers once a clip" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_a_tag_that_no_test_clip_varies_in_is_named(ask):
    rare = TAGS.model_copy(update={"labels": (*TAGS.labels, "never"), "name": "tones/rare"})
    with pytest.warns(UserWarning, match="1 of 5 tags .* 18 scored clips .*: never"):
        ask(rare)
    assert any_of.left_out(rare, [np.zeros(5)] * 2) == list(rare.labels)


def test_several_seeds_ride_in_one_pass_and_the_interval_covers_them(ask, monkeypatch, tmp_path):
    passes = []
    train = constrained.train_grid
    monkeypatch.setattr(constrained, "train_grid", lambda *given: passes.append(len(given[1])) or train(*given))
    noisy = TAGS.model_copy(update={"labels": ("noisy", "low"), "name": "tones/two", "max_epochs": 3})
    alone = {seed: ask(noisy, seeds=(seed,), overwrite="always")[0] for seed in (1, 2, 3)}
    together = ask(noisy, seeds=(1, 2, 3), overwrite="always")[0]
    assert passes == [6, 6, 6, 18] and together.protocol.tried == 18
    for place, (seed, record) in enumerate(alone.items()):
        for name, score in together.scores.items():
            assert score.by_seed[place] == pytest.approx(record.scores[name].value, abs=1e-6)
        own = {(p.layer, p.learning_rate): p.valid for p in together.grid if p.seed == seed}
        assert own == pytest.approx({(p.layer, p.learning_rate): p.valid for p in record.grid}, abs=1e-5)
    assert together.protocol.chosen_by_seed == tuple(record.protocol.chosen for record in alone.values())
    for score in together.scores.values():
        assert score.value == pytest.approx(np.mean(score.by_seed))
    assert set(read_predictions(predictions_path(together, tmp_path / "results"))) == {1, 2, 3}
    assert ask(noisy, seeds=(2,))[0] == together, "a seed that was measured is not measured again"


def test_spoilt_sound_is_read_by_the_same_probe(ask):
    record = ask(task(), deform=("gain:-1db", "noise:-20db"))[0]
    assert list(record.deformed) == ["gain:-1db", "noise:-20db"]
    clean = record.scores["accuracy"].value
    assert record.deformed["gain:-1db"]["accuracy"].value == pytest.approx(clean, abs=0.12)
    assert record.deformed["noise:-20db"]["accuracy"].value < clean - 0.2
    assert ask(task(), deform=("gain:-1db",))[0] == record


def test_windows_that_answer_for_themselves_are_scored_two_ways(ask):
    cut = task(
        window_seconds=0.3,
        tail="drop",
        aggregate="window",
        scores=("accuracy_windows",),
        also=("accuracy_recordings",),
        watch="accuracy_windows",
        name="tones/windows",
    )
    record = ask(cut)[0]
    assert record.scores["accuracy_windows"].n == record.scores["accuracy_recordings"].n == 18
    assert record.scores["accuracy_windows"].value > 0.8


def test_the_way_to_join_windows_is_chosen_on_validation(ask):
    cut = task(window_seconds=0.25, aggregate="ensemble", name="tones/ensemble")
    record = ask(cut)[0]
    assert record.protocol.chosen["windows"] in RULES
    assert record.scores["accuracy"].value > 0.8


def test_a_task_past_the_wall_is_marked(ask):
    assert not ask(task())[0].over_wall
    assert ask(task(), wall_hours=0.0, overwrite="always")[0].over_wall
