"""Records are identified by their path and refused when they are damaged or of another schema."""

import json
from pathlib import Path

import pytest

from carrara.core.errors import StoreError
from carrara.core.record import Record, read_record, read_records, record_path, write_record


def example(**changes):
    values = {
        "schema": 2,
        "task": {"name": "pebble/emotion", "version": 2, "fingerprint": "f" * 16,
                 "task": {"metrics": ["r2_valence", "r2_arousal"]}},
        "data": {"name": "pebble", "index": "i", "n": {"train": 3, "valid": 1, "test": 2}},
        "encoder": {"name": "org/some encoder:random", "weights_sha256": "0123456789abcdef", "output_version": 1,
                    "parameters": 10},
        "protocol": {"name": "constrained", "version": 1, "tried": 6, "chosen": {"layer": "0"}, "monitor": "r2"},
        "grid": [{"layer": "0", "learning_rate": 0.001, "valid": 0.5, "epoch": 3, "epochs": 9}],
        "scores": {
            "r2_valence": {"value": 0.4, "low": 0.3, "high": 0.5, "unit": "clip", "n": 2},
            "r2_arousal": {"value": 0.6, "low": 0.5, "high": 0.7, "unit": "clip", "n": 2},
        },
        "run": {"seed": 0, "device": "cpu", "seconds": {"probe": 1.5}, "versions": {}, "git": "", "date": "2026-11-21",
                "command": "carrara bench"},
    }  # fmt: skip
    return Record.model_validate(values | changes)


def test_a_record_is_read_as_it_was_written(tmp_path):
    record = example()
    path = write_record(record, tmp_path)
    assert path == record_path(
        tmp_path, "org/some encoder:random", "0123456789abcdef", "constrained", "pebble/emotion", 2
    )
    assert (
        path.relative_to(tmp_path).as_posix()
        == "org__some_encoder_random/0123456789ab/constrained/pebble__emotion@2.json"
    )
    assert read_record(path) == record
    assert list(read_records(tmp_path)) == [record]


def test_the_mean_score_is_the_mean_of_the_tasks_metrics():
    assert example().mean_score() == pytest.approx(0.5)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 2}', '{"schema": "one"}', '"text"', "null"])
def test_a_file_that_is_not_a_record_is_refused(tmp_path, text):
    path = tmp_path / "a@1.json"
    path.write_text(text)
    with pytest.raises(StoreError, match=r"a@1\.json"):
        read_record(path)


@pytest.mark.parametrize(("schema", "cure"), [(1, "measure again"), (99, "upgrade carrara")])
def test_another_schema_is_refused(tmp_path, schema, cure):
    path = write_record(example(), tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": schema}))
    with pytest.raises(StoreError, match=f"schema {schema}.*{cure}"):
        read_record(path)


def test_a_missing_folder_is_refused_with_the_command_that_creates_one(tmp_path):
    with pytest.raises(StoreError, match="carrara bench"):
        list(read_records(tmp_path / "none"))


@pytest.mark.parametrize("name", ["mert:random", "a/b:random-5", "..", "a.", 'q"<>|?*\\', "é🎵"])
def test_folders_of_records_have_names_that_windows_takes(name):
    path = record_path(Path("results"), name, "0" * 64, "constrained", name, 1)
    assert len(path.parts) == 5
    for part in path.parts:
        assert not set(part) & set('<>:"|?*\\/') and not part.endswith((".", " "))
