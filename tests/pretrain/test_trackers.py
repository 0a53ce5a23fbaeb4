"""Trackers get the lines of the log, each line once, also when a run is resumed; read back by the real packages.

Trackio and Weights & Biases are not in the extra `test`: wandb brings 13 packages, trackio wants an older Pillow. Where
they are installed (pip install 'carrara[trackio,wandb]'), these tests run against them; on 2026-11-30 they passed with
trackio 0.43.0, wandb 0.31.0 and tensorboard 2.21.0.
"""

import json
import sqlite3
import struct
import sys

import pytest

from carrara.core.errors import UsageError
from carrara.pretrain.metrics_log import MetricsLog
from carrara.pretrain.run import pretrain
from carrara.pretrain.trackers import check_trackers


def write_run(folder, name):
    """Write steps 2 and 4, then go on from step 2 as a killed run does, up to step 6."""
    log = MetricsLog(folder, 0, trackers=(name,), config={"seed": 1337})
    for step, loss in ((2, 3.0), (4, 2.0)):
        log.write({"step": step, "loss": loss, "accuracy/a": 0.25})
    log.write({"step": 4, "event": "skipped", "why": "loss nan"})
    log.close()
    log = MetricsLog(folder, 2, trackers=(name,), config={"seed": 1337})
    for step, loss in ((4, 2.0), (6, 1.0)):
        log.write({"step": step, "loss": loss, "accuracy/a": 0.5})
    log.write({"step": 6, "probes": {"key": {"score": 0.75}}})
    log.close()


def test_tensorboard_has_the_lines_after_a_resumption_once(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    write_run(tmp_path, "tensorboard")
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(2, 3.0), (4, 2.0), (6, 1.0)]
    assert [(event.step, event.value) for event in events.Scalars("probe/key")] == [(6, 0.75)]


@pytest.mark.slow
def test_trackio_has_one_run_with_every_step_once(tmp_path, monkeypatch, capfd):
    pytest.importorskip("trackio", reason="needs the extra trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "tracked"))
    utils = pytest.importorskip("trackio.utils")
    monkeypatch.setattr(utils, "TRACKIO_DIR", tmp_path / "tracked", raising=False)
    storage = pytest.importorskip("trackio.sqlite_storage")
    monkeypatch.setattr(storage, "TRACKIO_DIR", tmp_path / "tracked", raising=False)
    write_run(tmp_path / "run", "trackio")
    assert capfd.readouterr().out == ""
    (database,) = (tmp_path / "tracked").glob("*.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("select run_name, step, metrics from metrics order by step").fetchall()
    assert len({name for name, _, _ in rows}) == 1 and rows[0][0].startswith("run-")
    losses = [(step, json.loads(text)["loss"]) for _, step, text in rows if "loss" in json.loads(text)]
    assert losses == [(2, 3.0), (4, 2.0), (6, 1.0)]


def records(content):
    """Yield the records of a file in LevelDB's log format, after the seven bytes of W&B's header."""
    position, parts = 7, b""
    while position + 7 <= len(content):
        left = 32_768 - position % 32_768
        if left < 7:
            position += left
            continue
        length, kind = struct.unpack("<HB", content[position + 4 : position + 7])
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


@pytest.mark.slow
def test_wandb_writes_offline_runs_of_one_id_with_every_step_once(tmp_path, monkeypatch, capfd):
    pytest.importorskip("wandb", reason="needs the extra wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    write_run(tmp_path, "wandb")
    assert capfd.readouterr().out == ""
    files = sorted((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    assert len(files) == 2 and len({path.name for path in files}) == 1
    rows = []
    for path in files:
        for data in records(path.read_bytes()):
            record = Record.FromString(data)
            if record.WhichOneof("record_type") == "history":
                keys = {".".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
                rows.append((record.history.step.num, json.loads(keys.get("loss", "null"))))
    assert [row for row in rows if row[1] is not None] == [(2, 3.0), (4, 2.0), (6, 1.0)]


def test_trackers_that_there_are_not_are_refused_before_anything_is_written(monkeypatch, micro, corpus, tmp_path):
    with pytest.raises(UsageError, match=r"--tracker tensorbord: no such tracker\. Did you mean 'tensorboard'"):
        pretrain(micro, corpus, tmp_path / "x", trackers=["tensorbord"], device="cpu")
    monkeypatch.setattr("carrara.pretrain.trackers.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"--tracker wandb needs wandb; pip install 'carrara\[wandb\]'"):
        pretrain(micro, corpus, tmp_path / "x", trackers=["wandb"], device="cpu")
    assert not (tmp_path / "x").exists()
    assert check_trackers(None) == check_trackers(["none"]) == ()


TRACKIO = """
import json, os
def _write(**record):
    with open(os.environ["STAND_IN"], "a") as file:
        file.write(json.dumps(record) + "\\n")
class _Run:
    def __init__(self, name): self.name = name
    def log(self, metrics: dict, step: int | None = None): _write(call="log", metrics=metrics, step=step)
    def finish(self): _write(call="run.finish")
def init(project: str, name: str | None = None, group: str | None = None, space_id: str | None = None,
         config: dict | None = None, resume: str = "never", embed: bool = True):
    assert resume in ("must", "allow", "never")
    print("* Trackio project initialized")
    _write(call="init", project=project, name=name, config=config, resume=resume)
    return _Run(name)
def finish():
    print("* Run finished. Uploading logs")
    _write(call="finish")
"""
WANDB = """
import json, os
def _write(**record):
    with open(os.environ["STAND_IN"], "a") as file:
        file.write(json.dumps(record) + "\\n")
class Settings:
    def __init__(self, *, silent: bool = False): self.silent = silent
class _Run:
    def log(self, data: dict, step: int | None = None, commit: bool | None = None):
        _write(call="log", metrics=data, step=step)
    def finish(self, exit_code: int | None = None, quiet: bool | None = None): _write(call="finish")
def init(entity=None, project: str | None = None, dir=None, id: str | None = None, name: str | None = None,
         config: dict | None = None, resume=None, settings: Settings | None = None):
    assert resume in (None, True, "allow", "never", "must", "auto") and settings.silent
    _write(call="init", project=project, name=name, config=config, resume=resume, id=id)
    return _Run()
run = None
def teardown(exit_code: int | None = None): pass
"""


@pytest.mark.parametrize(("package", "source"), [("trackio", TRACKIO), ("wandb", WANDB)])
def test_calls_have_the_signatures_that_the_packages_document(package, source, tmp_path, monkeypatch, capfd):
    """Modules with the documented functions stand for the packages, which may not be installed."""
    (tmp_path / "site" / package).mkdir(parents=True)
    (tmp_path / "site" / package / "__init__.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setenv("STAND_IN", str(tmp_path / "calls.jsonl"))
    assert check_trackers([package]) == (package,)
    try:
        write_run(tmp_path / "run", package)
    finally:
        sys.modules.pop(package, None)
    assert capfd.readouterr().out == ""  # the packages' own words stay off the command's output
    calls = [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text().splitlines()]
    assert [call["call"] for call in calls] == ["init", "log", "log", "finish", "init", "log", "log", "finish"]
    first, second = (call for call in calls if call["call"] == "init")
    assert first == second and first["project"] == "carrara" and first["config"] == {"seed": 1337}
    assert first["resume"] == "allow" and first["name"].startswith("run")
    logged = [(call["step"], call["metrics"]) for call in calls if call["call"] == "log"]
    # Step 4 is not sent again by the run that goes on from step 2.
    assert [(step, numbers["loss"]) for step, numbers in logged if "loss" in numbers] == [(2, 3.0), (4, 2.0), (6, 1.0)]
    assert logged[-1] == (6, {"probe/key": 0.75})
