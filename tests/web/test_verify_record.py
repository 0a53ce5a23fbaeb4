"""`carrara verify-record`: what `bench` writes is right, and each fault of a record is named."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from carrara.bench.config import BenchConfig, parse_protocol_name
from carrara.bench.verify_record import MAX_RECORD_BYTES, check_predictions_size, truths_identity, verify_record_file
from carrara.cli._main import app
from carrara.core.errors import StoreError


def edit_predictions(path, change):
    """Rewrite a record's predictions after `change` has changed their columns in place."""
    file = path.with_suffix(".predictions.parquet")
    columns = pq.read_table(file).to_pydict()
    change(columns)
    pq.write_table(pa.table(columns), file)


@pytest.mark.parametrize("seeds", [(1234,), (1, 2, 3)])
def test_a_right_record_has_no_findings(write_genre_record, tmp_path, seeds):
    assert verify_record_file(write_genre_record(tmp_path, seeds=seeds)) == []


@pytest.mark.parametrize(
    ("changes", "check", "pattern"),
    [
        ({"schema": 1}, "schema", "schema 1, this program reads schema 2; measure again"),
        ({"scores.accuracy.value": "NaN"}, "schema", "scores.accuracy.value"),
        ({"scores.accuracy.low": None}, "schema", "low"),
        ({"protocol.name": "../../../etc"}, "schema", "name no file"),
        ({"encoder.weights_sha256": "../../x"}, "schema", "name no file"),
        ({"encoder.name": "x" * 300}, "size", "300 characters"),
        ({"encoder.name": "a\x00b"}, "schema", "control codes: a\\u0000b"),
        ({"encoder.parameters": 10**20}, "size", "parameters"),
        ({"task.name": "pebble/genr"}, "task", "is no task of this version"),
        ({"task.version": 9}, "task", "upgrade carrara"),
        ({"task.task.max_epochs": 7}, "task", "max_epochs of pebble/genre differ"),
        ({"task.fingerprint": "0" * 64}, "task", "fingerprint"),
        ({"data.index": "0" * 64}, "task", "fingerprint"),
        ({"data.missing": ["song-00-0"]}, "task", "not marked partial"),
        ({"data.n.train": 1}, "task", "split train"),
        ({"protocol.name": "constraned"}, "protocol", "Did you mean 'constrained'"),
        ({"protocol.name": "constrained:hidden=9"}, "protocol", "no setting 'hidden'"),
        ({"protocol.version": 9}, "protocol", "version 9"),
        ({"protocol.monitor": "test accuracy"}, "protocol", "chosen by 'test accuracy'"),
        ({"grid.0.learning_rate": 0.3}, "protocol", "learning rate 0.3 is none of the search's"),
        ({"grid.0.layer": "cnn"}, "protocol", "layer 'cnn' is not tried with layers=transformer"),
        ({"grid.0.epochs": 5000}, "protocol", "5000 epochs are more than"),
        ({"protocol.chosen.learning_rate": 0.3}, "choice", "is no point of the grid"),
        ({"protocol.chosen.learning_rate": 5e-3}, "choice", "validation alone may choose"),
        ({"grid": []}, "choice", "grid is empty"),
        ({"protocol.tried": 1}, "choice", "1 probes tried"),
        ({"scores.accuracy.value": 0.99}, "scores", "accuracy is 0.990000, its predictions give"),
        ({"scores.accuracy.unit": "window"}, "scores", "by window"),
        ({"scores.accuracy.low": 0.79}, "intervals", "its predictions give"),
        ({"scores.accuracy.method": ""}, "intervals", "former version"),
        ({"scores.accuracy.groups": 60}, "intervals", "over 60 groups, its predictions give wilson over 30"),
        ({"scores.accuracy.n": 61}, "predictions", "60 clips predicted"),
        ({"run.seeds": [7]}, "predictions", "seeds"),
    ],
)
def test_a_fault_is_named(write_genre_record, tmp_path, edit, changes, check, pattern):
    path = write_genre_record(tmp_path)
    edit(path, **changes)
    findings = verify_record_file(path)
    assert check in [each.check for each in findings]
    assert any(pattern in str(each) for each in findings), list(map(str, findings))
    assert all("\n" not in str(each) for each in findings)


def test_bounds_of_the_other_protocols(write_genre_record, tmp_path, edit):
    path = write_genre_record(tmp_path)
    edit(path, **{"protocol.name": "few-shot"})
    assert "outside of the search space of few-shot" in str(verify_record_file(path)[0])
    edit(path, **{"protocol.name": "constrained:layers=transformer,concat:last2", "grid.0.layer": "concat:last2"})
    assert verify_record_file(path) == []
    edit(path, **{"protocol.name": "constrained:layers=concat:last2"})
    assert "layer '1' is not tried" in " ".join(map(str, verify_record_file(path)))
    edit(path, **{"protocol.name": "linear", "grid.0.layer": "0"})
    assert verify_record_file(path) == []
    edit(path, **{"protocol.name": "semi-constrained:learning_rates=[0.001]"})
    assert "learning rate 5e-05 is none of the search's" in " ".join(map(str, verify_record_file(path)))


def test_a_protocol_name_is_read_as_it_was_written():
    for settings in ({}, {"head": "lstm", "learning_rates": [0.1, 0.01], "dropout": 0.5}):
        config = BenchConfig("semi-constrained", settings)
        again = parse_protocol_name(config.name)
        assert (again.name, again.protocol_settings()) == (config.name, config.protocol_settings())


def test_faults_of_predictions(write_genre_record, tmp_path):
    path = write_genre_record(tmp_path)
    file = path.with_suffix(".predictions.parquet")
    whole = file.read_bytes()

    def findings_after(change):
        file.write_bytes(whole)
        edit_predictions(path, change)
        return " ".join(map(str, verify_record_file(path)))

    wrong = findings_after(lambda columns: columns.update(prediction=["0"] * 60))
    assert "scores: accuracy is" in wrong
    assert "damaged" in findings_after(lambda columns: columns.update(prediction=["NaN"] * 60))
    assert "damaged" in findings_after(lambda columns: columns.update(prediction=["[" * 5000] * 60))
    assert "scores: accuracy is" in findings_after(lambda columns: columns.update(prediction=['{"a": 1}'] * 60))
    assert "cannot be scored" in findings_after(lambda columns: columns.update(prediction=["[1]", "[1, 2]"] * 30))
    assert "damaged" in findings_after(lambda columns: columns.update(truth=["9" * 400] * 60))
    assert "intervals" in findings_after(lambda columns: columns.update(group=columns["id"]))
    assert "without prediction" in findings_after(lambda columns: columns.pop("prediction"))
    file.write_bytes(whole[:-20])
    assert "predictions: " in str(verify_record_file(path)[0])
    file.unlink()
    assert "no predictions" in str(verify_record_file(path)[0])


def test_predictions_that_expand_are_refused_before_they_are_read(tmp_path):
    text = pa.array(["x" * 1_000_000])
    rows = pa.DictionaryArray.from_arrays(pa.array(np.zeros(2000, np.int32)), text).cast(pa.string())
    table = pa.table(dict.fromkeys(("id", "group", "truth", "prediction"), rows) | {"seed": [0] * 2000})
    path = tmp_path / "bomb.parquet"
    pq.write_table(table.slice(0, 2000), path)
    assert path.stat().st_size < 5_000_000
    with pytest.raises(StoreError, match="when expanded"):
        check_predictions_size(path)


def test_truths_of_two_systems_are_the_same_and_others_are_not(write_genre_record, tmp_path):
    first, second = (write_genre_record(tmp_path, system, skill) for system, skill in (("a", 0.3), ("b", 0.9)))
    identities = [truths_identity(path.with_suffix(".predictions.parquet")) for path in (first, second)]
    assert identities[0] == identities[1]
    edit_predictions(second, lambda columns: columns.update(truth=columns["prediction"]))
    assert truths_identity(second.with_suffix(".predictions.parquet")) != identities[0]


def test_the_command_says_a_line_a_finding(write_genre_record, tmp_path, edit):
    good, bad = (write_genre_record(tmp_path, system) for system in ("good", "bad"))
    edit(bad, **{"grid.0.learning_rate": 0.3, "encoder.license": "MIT\u001b[2J"})
    broken = good.parent / "broken@1.json"
    broken.write_text("{")
    large = good.parent / "large@1.json"
    large.write_text(" " * (MAX_RECORD_BYTES + 1))
    done = CliRunner().invoke(app, ["verify-record", str(tmp_path)])
    assert done.exit_code == 1
    assert "1 of 4 records are right" in done.stderr
    lines = done.stdout.splitlines()
    assert f"{good}: ok" in lines
    assert sum(line.startswith(str(bad)) for line in lines) == 1
    assert any(line.startswith(f"{broken}: schema:") for line in lines)
    assert any(line.startswith(f"{large}: size:") for line in lines)
    done = CliRunner().invoke(app, ["verify-record", str(good), "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout) == [{"path": str(good), "ok": True, "findings": []}]
    done = CliRunner().invoke(app, ["verify-record", str(tmp_path / "absent")])
    assert done.exit_code == 2 and "no such file or folder" in done.stderr
