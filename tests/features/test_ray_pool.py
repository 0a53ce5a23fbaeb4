"""`carrara embed --ray` on a cluster of two workers on this machine: the rows of one process, whatever is killed."""

import re
import signal
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import soundfile
from typer.testing import CliRunner

from carrara.cli._main import app

ray = pytest.importorskip("ray")
RATE, FILES = 16_000, 100


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Return the address of a cluster, and the folder of what is embedded on it."""
    folder = tmp_path_factory.mktemp("ray")
    for number in range(FILES):
        noise = np.random.default_rng(number).uniform(-0.3, 0.3, RATE)
        soundfile.write(folder / f"{number:02d}.wav", np.cumsum(noise) / 20, RATE)
    (folder / "broken.wav").write_bytes(b"no audio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CARRARA_HOME", str(folder / "home"))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")
        context = ray.init(num_cpus=3, object_store_memory=2**28, include_dashboard=False, log_to_driver=False)
        yield context.address_info["gcs_address"], folder
        ray.shutdown()


def rows(path):
    return sorted(pq.read_table(path).to_pylist(), key=lambda row: row["path"])


# Each actor's third batch waits until the gate is there, so that both kills come before the end on any machine. Ray
# hands out a batch when the next one is there: an actor alone writes its first, both together at most four of seven.
DRIVER = """
import sys, time
from pathlib import Path
from carrara.audio.files import list_audio_files
from carrara.encoders._hub.load import load
from carrara.features.embed_config import EmbedConfig
from carrara.features.parquet import write_embeddings
from carrara.features.ray_pool import RayCluster
from carrara.features.ray_pool import BATCH_FILES
encoder, gate = load("mfcc"), Path(sys.argv[4])
class Waiting(type(encoder)):
    calls = 0
    def forward(self, *arguments):
        Waiting.calls += 1
        while Waiting.calls > 2 * BATCH_FILES and not gate.exists():
            time.sleep(0.05)
        return super().forward(*arguments)
encoder.__class__ = Waiting
cluster = RayCluster(sys.argv[1], workers=2)
folder = Path(sys.argv[2])
report = write_embeddings(
    encoder, list_audio_files([folder]), Path(sys.argv[3]), EmbedConfig(), batch_size=1, part_rows=4, cluster=cluster
)
print(report.embedded, report.reused, len(report.failed))
"""


@pytest.mark.slow
def test_actors_and_the_driver_may_be_killed_and_the_rows_are_those_of_one_process(cluster, tmp_path):
    address, folder = cluster
    result = CliRunner().invoke(app, ["embed", str(folder), "-e", "mfcc", "-o", str(tmp_path / "one.parquet")])
    assert result.exit_code == 1 and "broken.wav: not an audio file" in result.stderr
    gates = [tmp_path / "first", tmp_path / "second"]
    first, second = (
        [sys.executable, "-c", DRIVER, address, str(folder), str(tmp_path / "killed"), str(gate)] for gate in gates
    )
    parts = tmp_path / "killed"
    with subprocess.Popen(first, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _wait(lambda: list(parts.glob("part-*.parquet")) or process.poll() is not None)
        process.send_signal(signal.SIGKILL)
    kept = sum(pq.read_metadata(part).num_rows for part in parts.glob("part-*.parquet"))
    assert 0 < kept < FILES
    gates[0].touch()  # Ray ends an actor of a killed driver once it is idle
    _wait(lambda: not _actors())
    with subprocess.Popen(second, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL) as process:
        _wait(lambda: _actors() or process.poll() is not None)
        for actor in _actors()[:1]:
            actor.kill()
        gates[1].touch()
        output = process.communicate(timeout=500)[0]
    assert process.returncode == 0
    counts = re.search(r"^(\d+) (\d+) (\d+)$", output, re.MULTILINE)  # among lines of Ray's about the killed actor
    embedded, reused, failed = map(int, counts.groups())
    assert embedded + reused == FILES and reused >= kept and failed == 1
    names = [row["path"] for part in parts.glob("part-*.parquet") for row in pq.read_table(part).to_pylist()]
    assert len(names) == len(set(names)) == FILES
    ours = {row["path"]: row for part in parts.glob("part-*.parquet") for row in pq.read_table(part).to_pylist()}
    for row in rows(tmp_path / "one.parquet"):
        np.testing.assert_allclose(ours[row["path"]].pop("embedding"), row.pop("embedding"), rtol=1e-4, atol=1e-3)
        assert ours[row["path"]] == row


def _actors():
    """Return the processes of the pool's actors, of this test's cluster only."""
    actors = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it ended meanwhile
            if "MapWorker" in " ".join(process.cmdline()):
                actors.append(process)
    return actors


def _wait(condition, seconds=500):
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.05)


def test_the_cluster_options_need_a_cluster(tmp_path):
    for options in (["--workers", "2"], ["--gpus-per-worker", "0.5"]):
        result = CliRunner().invoke(app, ["embed", __file__, "-e", "mfcc", "-o", str(tmp_path / "o.csv"), *options])
        assert result.exit_code == 2 and "give --ray local, auto or an address" in result.stderr


@pytest.mark.slow
def test_an_address_without_a_cluster_is_one_line(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")

    def refuse(**options):
        raise ConnectionError("Could not find any running Ray instance.\nPlease specify the one to connect to.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)  # "auto" finds the clusters of tests that run beside this one
    monkeypatch.chdir(tmp_path)
    soundfile.write("a.wav", np.zeros(RATE), RATE)
    result = CliRunner().invoke(app, ["embed", "a.wav", "-e", "mfcc", "-o", "out.parquet", "--ray", "auto"])
    assert result.exit_code == 2 and result.stderr.splitlines()[-1].startswith("carrara embed: --ray auto: no cluster")
    assert "\nPlease" not in result.stderr and not (tmp_path / "out.parquet").exists()
