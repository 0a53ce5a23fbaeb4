"""Records: the path is the identity, whole or not at all, one reader."""

import json

import pytest

from carrara.core.errors import StoreError
from carrara.core.record import Record, read_record, read_records, record_path, write_record


def example(**changes):
    values = {
        "schema": 1,
        "task": {"name": "pebble/emotion", "version": 2, "fingerprint": "f" * 16,
                 "task": {"metrics": ["r2_valence", "r2_arousal"]}},
        "data": {"name": "pebble", "index": "i", "n": {"train": 3, "valid": 1, "test": 2}},
        "encoder": {"name": "org/some encoder:random", "weights_sha256": "0123456789abcdef", "output_version": 1, "parameters": 10},
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
        == "org__some_encoder:random/0123456789ab/constrained/pebble__emotion@2.json"
    )
    assert read_record(path) == record
    assert list(read_records(tmp_path)) == [record]


def test_a_rows_cell_is_the_mean_of_its_metrics():
    assert example().cell() == pytest.approx(0.5)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}', '{"schema": "one"}', '"text"', "null"])
def test_what_is_not_a_record_is_named(tmp_path, text):
    path = tmp_path / "a@1.json"
    path.write_text(text)
    with pytest.raises(StoreError, match=r"a@1\.json"):
        read_record(path)


def test_a_newer_schema_asks_for_an_upgrade(tmp_path):
    path = write_record(example(), tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 99}))
    with pytest.raises(StoreError, match="schema 99.*upgrade"):
        read_record(path)


def test_no_such_folder_says_what_makes_one(tmp_path):
    with pytest.raises(StoreError, match="carrara bench"):
        list(read_records(tmp_path / "none"))
