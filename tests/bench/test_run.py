"""From sound files to records: a small dataset of tones, an encoder of band levels, the real store and protocol."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from carrara.bench.predictions import predictions_path
from carrara.bench.task_types.multilabel import TASK_TYPE as MULTILABEL
from carrara.core.clip import Clip
from carrara.core.errors import DataError
from carrara.core.io import sweep_drafts
from carrara.core.record import read_record, read_records, write_record

SPLIT_SIZES = {"train": 24, "valid": 12, "test": 18}


def test_a_record_of_each_task_type_is_written_with_its_predictions(measure, tmp_path, task, tags):
    height = task(
        "regression", label="height", labels=("height",), metrics=("r2_height",), monitor="r2", name="tones/height"
    )
    records = measure(task(extra_metrics=("accuracy",)), tags, height)
    assert [record.task.name for record in records] == ["tones/pitch", "tones/tags", "tones/height"]
    for record in records:
        path = record.path(tmp_path / "results")
        assert read_record(path) == record
        assert record.protocol.tried == 6 and len(record.grid) == 6
        assert {point.layer for point in record.grid} == {"0", "1", "weighted-sum"}
        assert record.data.n == SPLIT_SIZES and not record.partial and not record.data.missing
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
    right = np.mean([json.loads(row["truth"]) == json.loads(row["prediction"]) for row in table])
    assert right == pytest.approx(pitch.scores["accuracy"].value)


def test_a_task_that_has_a_record_is_not_measured_again(measure, task, tmp_path):
    first = measure(task())[0]
    assert measure(task())[0].run.date == first.run.date
    again = measure(task(), overwrite="always")[0]
    assert again.scores == first.scores and again.run.seconds != first.run.seconds
    path = again.path(tmp_path / "results")
    write_record(again.model_copy(update={"partial": True}), tmp_path / "results")
    assert path.is_file() and not measure(task())[0].partial, "all clips are there"
    again = read_record(path)
    changed = task(max_epochs=39)
    assert measure(changed, overwrite="never")[0] == measure(task(), overwrite="never")[0] == again
    assert measure(changed)[0].task.fingerprint != first.task.fingerprint


def test_an_encoder_whose_weights_changed_in_memory_is_measured_afresh(measure, task, bands):
    class Tuned(bands):
        def __init__(self, **changes):
            super().__init__(**changes)
            self.gain = torch.nn.Parameter(torch.ones(()))

        def forward(self, samples_BT, lengths_B=None):
            return super().forward(samples_BT, lengths_B) * self.gain

    encoder = Tuned()
    first = measure(task(), encoder=encoder)[0]
    assert measure(task(), encoder=encoder)[0] == first
    encoder.gain.data.zero_()
    spoilt = measure(task(), encoder=encoder)[0]
    assert spoilt.scores["accuracy"].value < 0.6 < first.scores["accuracy"].value
    assert spoilt.encoder.weights_sha256 != first.encoder.weights_sha256
    assert measure(task(), encoder=Tuned())[0] == first


def test_encoders_without_a_stated_hash_do_not_share_records(measure, task, bands):
    class Silent(bands):
        def forward(self, samples_BT, lengths_B=None):
            return super().forward(samples_BT, lengths_B) * 0

    first, second = (
        measure(task(), encoder=bands(weights_sha256=""))[0],
        measure(task(), encoder=Silent(weights_sha256=""))[0],
    )
    assert first.scores["accuracy"].value > 0.9 > second.scores["accuracy"].value
    changed = measure(task(), encoder=bands(weights_sha256="", output_version=2))[0]
    assert changed.encoder.output_version == 2, "a new version of the output is measured anew"


def test_clips_of_one_group_are_drawn_together(measure, tones, monkeypatch, tmp_path, task):
    alone = measure(task())[0].scores["accuracy"]
    assert (alone.method, alone.resampled, alone.groups) == ("wilson", "clip", 18)
    clips = type(tones).clips

    def with_singers(self, root, split_scheme):
        return [replace(clip, group=f"singer {int(clip.id[-2:]) // 3}") for clip in clips(self, root, split_scheme)]

    monkeypatch.setattr(type(tones), "clips", with_singers)
    monkeypatch.setattr(type(tones), "group_names", {"all": "singer"}, raising=False)
    record = measure(task(), overwrite="always")[0]
    score = record.scores["accuracy"]
    assert (score.resampled, score.groups, score.n, score.value) == ("singer", 6, 18, alone.value)
    assert score.high - score.low > alone.high - alone.low
    table = pq.read_table(predictions_path(record, tmp_path / "results"))
    assert table.column("group").to_pylist()[:4] == ["singer 12"] * 3 + ["singer 13"]


def test_a_run_over_few_clips_is_partial_and_spares_a_complete_record(measure, task):
    few = measure(task(), limit=6)[0]
    assert few.partial and few.data.n == {"train": 6, "valid": 6, "test": 6}
    complete = measure(task())[0]
    assert not complete.partial
    assert measure(task(), limit=6)[0] == complete


def test_windows_become_one_clip_by_embedding_or_by_logit(measure, task):
    for aggregate in ("embedding", "logit"):
        cut = task(window_seconds=0.5, aggregate=aggregate, name=f"tones/{aggregate}")
        record = measure(cut)[0]
        assert record.scores["accuracy"].value > 0.8 and record.scores["accuracy"].n == 18


@pytest.mark.parametrize("protocol", ["constrained", "linear", "few-shot", "semi-constrained"])
def test_selection_does_not_depend_on_test_labels(measure, tones, monkeypatch, task, protocol):
    first = measure(task(), protocol=protocol)[0]
    clips = type(tones).clips

    def with_wrong_test_labels(self, root, split_scheme):
        return [
            Clip(clip.id, clip.path, split="test", labels={"pitch": "low"}) if clip.split == "test" else clip
            for clip in clips(self, root, split_scheme)
        ]

    monkeypatch.setattr(type(tones), "clips", with_wrong_test_labels)
    second = measure(task(), protocol=protocol)[0]
    assert second.grid == first.grid and second.protocol.chosen == first.protocol.chosen
    assert second.scores != first.scores


PROTOCOLS = [
    ("constrained", "multiclass", {}),
    ("linear", "multiclass", {}),
    ("few-shot", "multiclass", {}),
    ("semi-constrained", "multiclass", {"head": "lstm", "learning_rates": (1e-2,)}),
    ("constrained", "beat_tracking", {}),
]


@pytest.mark.parametrize(("protocol", "task_type", "settings"), PROTOCOLS)
def test_a_clip_that_is_absent_or_undecodable_is_left_out_only_with_partial(
    measure, tones, task, protocol, task_type, settings
):
    beats = {"labels": ("beat",), "label": "beats", "metrics": ("beat_f_70ms",), "monitor": "beat_f_70ms"}
    row = task(task_type, max_epochs=2, **(beats if task_type == "beat_tracking" else {}))
    config = {"protocol": protocol, "settings": settings}
    files = {"test": tones.folder / "40.wav", "train": tones.folder / "4.wav"}
    contents = {path: path.read_bytes() for path in files.values()}
    try:
        files["test"].unlink()
        with pytest.raises(DataError, match=r"tone-40.* --partial"):
            measure(row, **config)
        record = measure(row, partial=True, **config)[0]
        assert record.data.missing == ("tone-40",) and record.partial and record.data.n["test"] == 17
        assert measure(row, partial=True, **config)[0] == record
        files["train"].write_bytes(b"RIFF")
        files["test"].write_bytes(b"RIFF")
        with pytest.raises(DataError, match=r"2 clips cannot be decoded.*4.*\.wav.*--partial"):
            measure(row, overwrite="always", **config)
        record = measure(row, partial=True, overwrite="always", **config)[0]
        assert record.data.missing == ("tone-04", "tone-40")
        assert record.data.n == SPLIT_SIZES | {"train": 23, "test": 17}
        assert measure(row, partial=True, **config)[0] == record, "the same files are still undecodable"
    finally:
        for path, content in contents.items():
            path.write_bytes(content)
    assert not measure(row, **config)[0].partial


def test_too_few_clips_and_nonfinite_features_are_reported(measure, task, bands):
    with pytest.raises(DataError, match=r"the train split of tones/none has 1 clips, fewer than 2"):
        measure(task(split_scheme="none"))

    class Broken(bands):
        def forward(self, samples_BT, lengths_B=None):
            return super().forward(samples_BT, lengths_B) * torch.nan

    with pytest.raises(DataError, match="finite"):
        measure(task(), encoder=Broken())


def test_an_encoder_without_frames_has_no_record_of_a_frame_level_task(measure, capsys, tmp_path, task, bands):
    beats = task("beat_tracking", labels=("beat",), metrics=("beat_f_70ms",), monitor="beat_f_70ms", name="tones/beats")
    assert measure(beats, encoder=bands(frame_rate=None)) == []
    assert "tones/beats: bands has no frames" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_a_tag_that_no_test_clip_varies_in_is_named(measure, tags):
    rare = tags.model_copy(update={"labels": (*tags.labels, "never"), "name": "tones/rare"})
    with pytest.warns(UserWarning, match="1 of 5 tags .* 18 scored clips .*: never"):
        measure(rare)
    assert MULTILABEL.unscored_tags(rare, [np.zeros(5)] * 2) == list(rare.labels)


def test_killed_at_any_rename_of_a_record_nothing_half_is_read_and_it_is_measured_again(
    measure, task, tmp_path, monkeypatch
):
    results, kills, replace = tmp_path / "results", tmp_path / "kills", os.replace

    def copied(source, target):
        # What SIGKILL leaves is what is on the disk.
        shutil.copytree(results, kills / f"{len(list(kills.iterdir()))}")
        replace(source, target)

    for folder in (results, kills):
        folder.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", copied)
        truth = measure(task())[0]
    assert any(path.suffix == ".parquet" for path in kills.rglob("*")), "killed between predictions and record"
    for kill in sorted(kills.iterdir()):
        shutil.rmtree(results)
        shutil.copytree(kill, results)
        assert list(read_records(results)) == []
        assert measure(task())[0].scores == truth.scores
        sweep_drafts(results, recursive=True)
        files = {path for path in results.rglob("*") if path.is_file()}
        assert files == {truth.path(results), predictions_path(truth, results)}


def test_two_at_once_on_one_folder_write_one_record(measure, task):
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(lambda _: measure(task())[0], range(2))
    assert first.scores == second.scores
    assert measure(task())[0].run.date in (first.run.date, second.run.date)


BEATS = {"labels": ("beat",), "label": "beats", "metrics": ("beat_f_70ms",), "monitor": "beat_f_70ms"}
HEIGHT = {"labels": ("height",), "label": "height", "metrics": ("r2_height",), "monitor": "r2"}
FAULTS = [
    ("multiclass", {}, "train", {"pitch": "low"}, r"every training clip is 'low', so a probe can learn nothing"),
    ("multilabel", {"label": "tags", "metrics": ("roc_auc",), "monitor": "roc_auc"}, "valid", {"tags": ["low"]},
     r"on all or on none of the 12 valid clips"),
    ("regression", HEIGHT, "train", {"height": 1.0}, r"height is the same for every train clip, .*nothing to learn"),
    ("regression", HEIGHT, "test", {"height": 1.0}, r"height is the same for every test clip, .*no R²"),
    ("regression", HEIGHT, "test", {"height": float("nan")}, r"'tone-36': its height is 'nan', not a finite"),
    ("regression", HEIGHT, "valid", {"height": "high"}, r"'tone-24': its height is 'high', not a finite"),
    ("beat_tracking", BEATS, "train", {"beats": []}, r"no train clip has a beat"),
]  # fmt: skip


@pytest.mark.parametrize(("task_type", "fields", "split", "labels", "message"), FAULTS)
def test_labels_that_cannot_be_learnt_or_scored_are_refused_before_extraction(
    measure, tones, monkeypatch, task, bands, task_type, fields, split, labels, message
):
    clips = type(tones).clips

    def faulty(self, root, split_scheme):
        return [
            replace(clip, labels=clip.labels | labels) if clip.split == split else clip
            for clip in clips(self, root, split_scheme)
        ]

    class Unused(bands):
        def forward(self, samples_BT, lengths_B=None):
            raise AssertionError("nothing should be extracted")

    monkeypatch.setattr(type(tones), "clips", faulty)
    with pytest.raises(DataError, match=message) as caught:
        measure(task(task_type, **fields), encoder=Unused())
    assert "\n" not in str(caught.value)


def test_a_class_that_only_other_splits_have_is_named(measure, tones, monkeypatch, tmp_path, task):
    clips = type(tones).clips

    def with_high_tests_only(self, root, split_scheme):
        return [
            replace(clip, labels={"pitch": "low"}) if clip.split != "test" and clip.labels["pitch"] == "high" else clip
            for clip in clips(self, root, split_scheme)
        ]

    monkeypatch.setattr(type(tones), "clips", with_high_tests_only)
    with pytest.warns(
        UserWarning, match=r"the pitch of the test clip 'tone-38' is 'high', which no train clip has \(and 5 more"
    ):
        measure(task())
    folder = tmp_path / "own"
    folder.mkdir()
    rows = ["path,split,mood"]
    for number in range(30):
        split = "train" if number < 18 else "valid" if number < 24 else "test"
        (folder / f"{number:02}.wav").write_bytes((tones.folder / f"{number}.wav").read_bytes())
        rows.append(f"{number:02}.wav,{split},{'new' if number == 29 else 'ab'[number % 2]}")
    (folder / "labels.csv").write_text("\n".join(rows))
    for labels in ("", 'labels = ["a", "b", "new"]\n'):
        (folder / "my.toml").write_text(f'data = "."\ntask_type = "multiclass"\nlabel = "mood"\n{labels}')
        with pytest.raises(DataError, match=r"29\.wav.* 'new', .*train"):
            measure(folder / "my.toml")
