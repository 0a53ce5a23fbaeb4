"""Records of Pebble's genres with predictions, for the tests of what verifies and takes them."""

import json
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from sklearn.metrics import accuracy_score
from sqlalchemy import create_engine, text

from carrara.bench import task_types, tasks
from carrara.bench.interval import confidence_intervals, encode_draws, unit_groups
from carrara.bench.predictions import predictions_path, write_predictions
from carrara.bench.provenance import fingerprint
from carrara.core.clip import Clip
from carrara.core.record import Record, write_record
from carrara.web.leaderboard.app import create_app
from carrara.web.leaderboard.database import open_database
from carrara.web.leaderboard.pages import SitePages
from carrara.web.listen import bind_socket, format_url

INITDB = ("/usr/lib/postgresql/15/bin/initdb", "/usr/local/bin/initdb")
TASK = tasks.task("pebble/genre")
CLIPS = [Clip(f"song-{number // 2:02}-{number % 2}", None, group=f"song-{number // 2:02}") for number in range(60)]
RATES = (5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2)


def genre_record(folder, system="good", skill=0.8, seeds=(1234,), truth_seed=0, **changes):
    """Write a record of a system that is right for a fraction of the clips, with its predictions; return its path.

    Changes replace values at dotted paths: `protocol.name="linear"`.
    """
    truths = np.random.default_rng(truth_seed).integers(0, len(TASK.labels), len(CLIPS)).tolist()
    predictions_S = []
    for seed in seeds:
        is_right = np.random.default_rng(seed).random(len(CLIPS)) < skill
        predictions_S.append(np.where(is_right, truths, (np.array(truths) + 1) % len(TASK.labels)).tolist())
    by_seed = [accuracy_score(truths, predictions) for predictions in predictions_S]
    groups = unit_groups(CLIPS)
    task_type = task_types.REGISTRY.get(TASK.task_type)
    interval = confidence_intervals(TASK, task_type, truths, predictions_S, groups)["accuracy"]
    grid = [
        {"layer": layer, "learning_rate": rate, "valid": 0.9 - abs(int(layer) - 1) / 10 - abs(rate - 1e-3),
         "epoch": 3, "epochs": 10, "seed": seed}
        for seed in seeds for layer in "012" for rate in RATES
    ]  # fmt: skip
    chosen = {"layer": "1", "learning_rate": 1e-3, "epoch": 3}
    values = {
        "task": {"name": TASK.name, "version": TASK.version, "fingerprint": fingerprint(TASK, "i" * 64),
                 "task": TASK.model_dump(mode="json")},
        "data": {"name": "pebble", "index": "i" * 64, "n": {"train": 120, "valid": 40, "test": len(CLIPS)}},
        "encoder": {"name": system, "weights_sha256": "ab" * 32, "output_version": 1, "parameters": 1000,
                    "license": "MIT"},
        "protocol": {"name": "constrained", "version": 1, "tried": len(grid), "chosen": chosen,
                     "monitor": "valid accuracy", "chosen_by_seed": [chosen] * len(seeds) if len(seeds) > 1 else []},
        "grid": grid,
        "scores": {"accuracy": {
            "value": float(np.mean(by_seed)), "low": interval.low, "high": interval.high, "unit": "clip",
            "n": len(CLIPS), "by_seed": by_seed if len(seeds) > 1 else [], "method": interval.method,
            "resampled": "song", "groups": interval.groups, "draws": encode_draws(interval.draw_G)}},
        "run": {"seed": seeds[0], "seeds": list(seeds), "device": "cpu", "seconds": {"features": 1.0}, "versions": {},
                "git": "", "date": "2026-11-29T12:00:00+00:00", "command": "carrara bench"},
    }  # fmt: skip
    record = Record.model_validate(values)
    path = write_record(record, folder)
    write_predictions(predictions_path(record, folder), CLIPS, truths, predictions_S, seeds)
    if changes:
        edit_record(path, **changes)
    return path


def edit_record(path, **changes):
    """Replace values of a record's file at dotted paths; None removes them."""
    values = json.loads(path.read_text())
    for dotted, value in changes.items():
        *branch, leaf = dotted.split(".")
        node = values
        for key in branch:
            node = node[int(key) if isinstance(node, list) else key]
        leaf = int(leaf) if isinstance(node, list) else leaf
        if value is None:
            del node[leaf]
        else:
            node[leaf] = value
    path.write_text(json.dumps(values))


@pytest.fixture(scope="session")
def write_genre_record():
    return genre_record


@pytest.fixture(scope="session")
def edit():
    return edit_record


@pytest.fixture(scope="session")
def postgresql():
    """The address of a PostgreSQL server of these tests' own, and a function that stops or starts it."""
    initdb = next((path for path in INITDB if Path(path).is_file()), None) or shutil.which("initdb")
    if initdb is None:
        pytest.skip("no initdb of PostgreSQL on this machine")
    tools = Path(initdb).resolve().parent
    folder = Path(tempfile.mkdtemp(prefix="carrara-postgres-"))
    # PostgreSQL refuses to run as root.
    user = {}
    if os.geteuid() == 0:
        name = next((name for name in ("postgres", "nobody") if name in {each.pw_name for each in pwd.getpwall()}), "")
        if not name:
            pytest.skip("PostgreSQL refuses root, and there is no user postgres or nobody")
        entry = pwd.getpwnam(name)
        os.chown(folder, entry.pw_uid, entry.pw_gid)
        user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(tool, *arguments):
        done = subprocess.run(
            [tools / tool, *arguments], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **user
        )
        assert done.returncode == 0, done.stderr.decode()

    def control(action):
        options = ["-o", f"-p {port} -h 127.0.0.1 -k {folder} -F"] if action == "start" else ["-m", "fast"]
        run("pg_ctl", action, "-w", "-D", "data", "-l", "log", *options)

    run("initdb", "-D", "data", "-U", "carrara", "-A", "trust", "-E", "UTF8", "--no-sync")
    control("start")
    yield f"postgresql://carrara:secret@127.0.0.1:{port}/postgres", control
    control("stop")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request, tmp_path):
    """The address of an empty database, of both kinds."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/leaderboard.db"
        return
    url, _ = request.getfixturevalue("postgresql")
    yield url
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(text("drop schema public cascade"))
        connection.execute(text("create schema public"))
    engine.dispose()


@contextmanager
def running_server(database_url, **settings):
    """Run the leaderboard in a thread; yield its address and its application."""
    listener = bind_socket("127.0.0.1", 0)
    database = open_database(database_url)
    app = create_app(database, SitePages(database), **settings)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield format_url(listener), app
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.fixture(scope="session")
def serve():
    return running_server
