"""From sound files to records: a small dataset of tones, an encoder of band levels, the real store and protocol."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from carrara.bench.predictions import predictions_path
from carrara.bench.protocols import constrained
from carrara.bench.task_types import multiclass, multilabel
from carrara.core.clip import Clip
from carrara.core.errors import DataError
from carrara.core.record import read_record

SIDES = {"train": 24, "valid": 12, "test": 18}


def test_a_record_of_each_kind_stands_at_its_place_with_its_predictions(ask, tmp_path, task, tags):
    height = task(
        "regression", label="height", labels=("height",), metrics=("r2_height",), monitor="r2", name="tones/height"
    )
    records = ask(task(also=("accuracy",)), tags, height)
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


def test_the_same_question_is_asked_once(ask, monkeypatch, task):
    runs = []
    train = constrained.train_grid
    monkeypatch.setattr(constrained, "train_grid", lambda *given: runs.append(1) or train(*given))
    first = ask(task())
    assert ask(task()) == first and len(runs) == 1
    assert ask(task(), overwrite="always")[0].scores == first[0].scores and len(runs) == 2
    changed = task(max_epochs=39)
    assert ask(changed, overwrite="never") == ask(task(), overwrite="never") and len(runs) == 2
    assert ask(changed)[0].task.fingerprint != first[0].task.fingerprint and len(runs) == 3


def test_a_run_over_few_clips_is_partial_and_spares_a_whole_record(ask, task):
    few = ask(task(), limit=6)[0]
    assert few.partial and few.data.n == {"train": 6, "valid": 6, "test": 6}
    complete = ask(task())[0]
    assert not complete.partial
    assert ask(task(), limit=6)[0] == complete


def test_windows_become_one_clip_by_embedding_or_by_logit(ask, task):
    for aggregate in ("embedding", "logit"):
        cut = task(window_seconds=0.5, aggregate=aggregate, name=f"tones/{aggregate}")
        record = ask(cut)[0]
        assert record.scores["accuracy"].value > 0.8 and record.scores["accuracy"].n == 18


def test_nothing_that_chooses_reads_the_test_side(ask, monkeypatch, task):
    order = []
    truths, choose, metrics = multiclass.TASK_TYPE.truths, constrained.choose, multiclass.TASK_TYPE.metrics

    def watched_truths(task, clips):
        order.append("truths " + "/".join(sorted({clip.split for clip in clips})))
        return truths(task, clips)

    def watched_metrics(task, truths, answers):
        order.append(f"scored {len(truths)}")
        return metrics(task, truths, answers)

    object.__setattr__(multiclass.TASK_TYPE, "truths", watched_truths)
    object.__setattr__(multiclass.TASK_TYPE, "metrics", watched_metrics)
    monkeypatch.setattr(constrained, "choose", lambda *given: order.append("choose") or choose(*given))
    try:
        ask(task())
    finally:
        object.__setattr__(multiclass.TASK_TYPE, "truths", truths)
        object.__setattr__(multiclass.TASK_TYPE, "metrics", metrics)
    chosen = order.index("choose")
    assert {"truths train", "truths valid", f"scored {SIDES['valid']}"} == set(order[:chosen])
    assert order[chosen + 1 :].index("truths test") < order[chosen + 1 :].index(f"scored {SIDES['test']}")


def test_the_choice_is_the_same_whatever_the_test_labels_say(ask, tones, monkeypatch, task):
    first = ask(task())[0]
    clips = type(tones).clips

    def lying(self, root, split):
        return [
            Clip(clip.id, clip.path, split="test", labels={"pitch": "low"}) if clip.split == "test" else clip
            for clip in clips(self, root, split)
        ]

    monkeypatch.setattr(type(tones), "clips", lying)
    second = ask(task())[0]
    assert second.grid == first.grid and second.protocol.chosen == first.protocol.chosen
    assert second.scores != first.scores


def test_a_missing_clip_is_accepted_knowingly_and_makes_the_record_partial_until_it_is_there(ask, tones, task):
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


def test_too_few_clips_and_features_that_are_not_finite_say_so(ask, task, bands):
    with pytest.raises(DataError, match=r"the train side of tones/none has too few clips \(1"):
        ask(task(split="none"))

    class Broken(bands):
        def forward(self, samples_BT, lengths_B=None):
            return super().forward(samples_BT, lengths_B) * torch.nan

    with pytest.raises(DataError, match="finite"):
        ask(task(), encoder=Broken())


def test_an_encoder_without_frames_has_no_record_of_a_row_of_events(ask, capsys, tmp_path, task, bands):
    beats = task("beat_tracking", labels=("beat",), metrics=("beat_f_70ms",), monitor="beat_f_70ms", name="tones/beats")
    assert ask(beats, encoder=bands(frame_rate=None)) == []
    assert "tones/beats: bands answers once a clip" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_a_tag_that_no_test_clip_varies_in_is_named(ask, tags):
    rare = tags.model_copy(update={"labels": (*tags.labels, "never"), "name": "tones/rare"})
    with pytest.warns(UserWarning, match="1 of 5 tags .* 18 scored clips .*: never"):
        ask(rare)
    assert multilabel.left_out(rare, [np.zeros(5)] * 2) == list(rare.labels)
