"""`carrara embed` on large catalogues: manifests of a million rows, shards and samples of recordings."""

import json
import os
import signal
import subprocess
import sys
from operator import itemgetter
from pathlib import Path

import numpy as np
import pandas
import pyarrow.parquet as pq
import pytest
import soundfile
from typer.testing import CliRunner

import carrara
from carrara.cli._main import app
from carrara.features.embedding_table import EmbeddingTable

RATE = 16_000


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def music(tmp_path):
    folder = tmp_path / "music"
    folder.mkdir()
    for number in range(12):
        noise = np.random.default_rng(number).uniform(-0.3, 0.3, round((0.5 + number / 10) * RATE))
        soundfile.write(folder / f"{number}.wav", np.cumsum(noise) / 20, RATE)
    return folder


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def rows(path):
    return sorted(pq.read_table(path).to_pylist(), key=itemgetter("path", "start"))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_manifest_names_files_relative_to_itself_each_once(tmp_path, music, suffix):
    paths = [*(f"{number}.wav" for number in range(12)), "3.wav", str(music / "4.wav"), "gone.wav"]
    frame = pandas.DataFrame({"title": range(len(paths)), "path": paths})
    frame.to_csv(music / "list.csv") if suffix == "csv" else frame.to_parquet(music / "list.parquet")
    result = run("embed", music / f"list.{suffix}", "-e", "mfcc", "-o", "out.parquet", "--json")
    assert result.exit_code == 1 and "gone.wav: no such file" in result.stderr
    report = json.loads(result.stdout)
    assert (report["files"], list(report["failed"])) == (12, [str(music / "gone.wav")])
    assert run("embed", music, "-e", "mfcc", "-o", "folder.parquet").exit_code == 0
    assert rows("out.parquet") == rows("folder.parquet")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("file\na.wav\n", "has no column path, only file"),
        ("path,id\na.wav,1\n,2\n", "row 2 has no path"),
        ("", "cannot be read as a Parquet or CSV table"),
    ],
)
def test_a_manifest_without_paths_is_refused_in_one_line(tmp_path, text, reason):
    (tmp_path / "list.csv").write_text(text)
    result = run("embed", "list.csv", "-e", "mfcc", "-o", "out.parquet")
    assert result.exit_code == 1 and len(result.stderr.splitlines()) == 1
    assert f"list.csv: {reason}" in result.stderr


def test_shards_together_are_one_run(tmp_path, music):
    music = music.relative_to(tmp_path)  # the shards follow from the paths: so they are the same in every run
    assert run("embed", music, "-e", "mfcc", "-o", "one.parquet", "--per", "window", "--window", 0.4).exit_code == 0
    counts = []
    for shard in (2, 0, 1):
        command = ("embed", music, "-e", "mfcc", "-o", "many", "--per", "window", "--window", 0.4)
        result = run(*command, "--num-shards", 3, "--shard-index", shard, "--json")
        assert result.exit_code == 0
        counts.append(json.loads(result.stdout)["files"])
    assert sum(counts) == 12 and all(counts)
    assert rows("many") == rows("one.parquet")
    assert len(EmbeddingTable("many").path_R) == len(rows("one.parquet"))
    soundfile.write(music / "new.wav", np.zeros(RATE), RATE)
    again = [
        json.loads(run(*command, "--num-shards", 3, "--shard-index", shard, "--json").stdout) for shard in range(3)
    ]
    assert sum(report["embedded"] for report in again) == 1
    assert sum(report["reused"] for report in again) == 12


def test_wrong_shards_are_refused(tmp_path, music):
    for arguments in [
        ("--num-shards", 3),
        ("--shard-index", 0),
        ("--num-shards", 3, "--shard-index", 3),
        ("--num-shards", 3, "--shard-index", 0, "-o", "out.parquet"),
    ]:
        result = run("embed", music, "-e", "mfcc", "-o", "many", *arguments)
        assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1


def test_a_sample_is_the_excerpts_of_the_recording(tmp_path):
    rate = carrara.encoders["mfcc"].sample_rate  # so that nothing is resampled
    sound = np.cumsum(np.random.default_rng(0).uniform(-0.1, 0.1, 10 * rate)) / 20
    soundfile.write("long.wav", sound, rate, subtype="FLOAT")
    soundfile.write("short.wav", sound[: 2 * rate], rate, subtype="FLOAT")
    files, options = ("long.wav", "short.wav"), ("-e", "mfcc", "--per", "window", "-o", "out.parquet")
    assert run("embed", *files, *options, "--sample", "3x1").exit_code == 0
    table = rows("out.parquet")
    assert [row["path"] for row in table] == ["long.wav"] * 3 + ["short.wav"]  # it is shorter than 3 s
    starts = [(index + 0.5) * 10 / 3 - 0.5 for index in range(3)]
    np.testing.assert_allclose([row["start"] for row in table[:3]], starts, atol=1e-3)
    for row, start in zip(table, starts):
        soundfile.write("part.wav", sound[round(start * rate) : round((start + 1) * rate)], rate, subtype="FLOAT")
        expected = carrara.embed("part.wav", "mfcc")["embedding"][0].as_py()
        np.testing.assert_allclose(row["embedding"], expected, rtol=1e-4, atol=1e-3)
    clips = carrara.embed(["long.wav", "short.wav"], "mfcc", sample="3x1").to_pylist()
    mean = np.mean([row["embedding"] for row in table[:3]], axis=0)
    np.testing.assert_allclose(clips[0]["embedding"], mean, rtol=1e-4, atol=1e-4)
    assert [clip["duration"] for clip in clips] == [10.0, 2.0]
    assert json.loads(pq.read_schema("out.parquet").metadata[b"settings"])["sample"] == "3x1"
    assert "made with another sample ('3x1', now None)" in run("embed", *files, *options).stderr
    for wrong in ("3", "0x10", "x", "3x0", "3x-1"):
        assert run("embed", *files, *options, "--sample", wrong).exit_code == 2, wrong
    assert (
        run("embed", "long.wav", "-e", "noise", "--per", "frame", "-o", "f.parquet", "--sample", "3x1").exit_code == 2
    )


def test_a_sample_of_a_file_without_a_length_is_the_same(tmp_path):
    sound = np.cumsum(np.random.default_rng(0).uniform(-0.1, 0.1, 10 * RATE)) / 20
    soundfile.write("a.flac", sound, RATE)
    soundfile.write("a.ogg", sound, RATE)
    exact, counted = (
        carrara.embed(f"a.{kind}", "mfcc", "window", sample="2x2").to_pylist() for kind in ("flac", "ogg")
    )
    np.testing.assert_allclose([row["start"] for row in counted], [row["start"] for row in exact], atol=0.05)


@pytest.mark.slow
def test_killed_shards_are_completed_without_losing_or_doubling_a_recording(tmp_path, music):
    code = """
import sys
from pathlib import Path
from carrara.audio.files import list_audio_files, select_shard
from carrara.encoders._hub.load import load
from carrara.features.embed_config import EmbedConfig
from carrara.features.parquet import write_embeddings
files = select_shard(list_audio_files([sys.argv[1]]), 2, int(sys.argv[2]))
encoder = load("mfcc")
import time
windows = []
def wait(*_):
    windows.append(1)
    if len(windows) == {"last": len(files), "first": 1, "none": 0}[sys.argv[4]]:
        print("waiting", flush=True)
        time.sleep(600)
encoder.register_forward_pre_hook(wait)
write_embeddings(encoder, files, Path(sys.argv[3]), EmbedConfig(), batch_size=1, part_rows=1, threads=1)
"""
    music = music.relative_to(tmp_path)  # the shards follow from the paths: so they are the same in every run
    for shard in range(2):
        command = [sys.executable, "-c", code, music, str(shard), tmp_path / "many" / f"shard-{shard}"]
        for file in ("last", "first"):  # before the first kill all are written but one
            with subprocess.Popen([*command, file], stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout.readline() == "waiting\n"
                process.send_signal(signal.SIGKILL)
        subprocess.run([*command, "none"], check=True, stdout=subprocess.DEVNULL)
    assert run("embed", music, "-e", "mfcc", "-o", "one.parquet").exit_code == 0
    assert [row["path"] for row in rows("many")] == [row["path"] for row in rows("one.parquet")]
    ours, whole = (np.stack([row["embedding"] for row in rows(path)]) for path in ("many", "one.parquet"))
    np.testing.assert_allclose(ours, whole, rtol=1e-4, atol=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads the peak of memory from /proc")
def test_a_manifest_of_a_million_rows_needs_less_than_two_gigabytes_to_start(tmp_path, music):
    number = np.char.mod("%07d.wav", np.arange(1_000_000))
    pandas.DataFrame({"path": number}).to_csv("big.csv", index=False)
    os.rename(music / "0.wav", "0000000.wav")
    code = """
import time
from pathlib import Path
from carrara.audio.files import check_paths, list_audio_files
from carrara.encoders._hub.load import load
from carrara.features.embed_config import EmbedConfig
from carrara.features.parquet import write_embeddings
start = time.monotonic()
encoder = load("mfcc")
def stop(*_):
    # Not ru_maxrss, which a child takes over from the process that started it.
    status = Path("/proc/self/status").read_text()
    print(time.monotonic() - start, int(status.partition("VmHWM:")[2].split()[0]) / 1e6, flush=True)
    import os
    os._exit(0)
encoder.register_forward_pre_hook(stop)
check_paths([Path("big.csv")])
write_embeddings(encoder, list_audio_files(["big.csv"]), Path("out"), EmbedConfig(), batch_size=1)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    seconds, gigabytes = map(float, done.stdout.split())
    assert gigabytes < 2
    print(f"first batch after {seconds:.1f} s")


def test_threads_cap_the_pools(music):
    code = """
import numpy, pyarrow, threadpoolctl, torch
from carrara.nn.device import limit_threads
limit_threads(1)
pools = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
print(torch.get_num_threads(), max(pools), pyarrow.cpu_count(), pyarrow.io_thread_count())
"""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["1", "1", "1", "1"]
    assert run("embed", music, "-e", "mfcc", "-o", "out.parquet", "--threads", 1).exit_code == 0
