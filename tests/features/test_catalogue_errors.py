"""What goes wrong with catalogues: one line each, the rest goes on, and the same command again does what is missing."""

import json
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from typer.testing import CliRunner

from carrara.cli._main import app

RATE = 16_000


@pytest.fixture(autouse=True)
def music(tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "music").mkdir()
    for number in range(6):
        noise = np.random.default_rng(number).uniform(-0.3, 0.3, RATE)
        soundfile.write(f"music/{number}.wav", np.cumsum(noise) / 20, RATE)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def embed(*arguments, expected=0):
    result = run("embed", *arguments, "-e", "mfcc", "--json")
    assert result.exit_code == expected, result.stderr
    return json.loads(result.stdout), result.stderr.splitlines()


def test_a_bucket_that_goes_in_the_middle_leaves_what_was_embedded_and_a_line_for_each_other_file():
    files = fsspec.filesystem("memory")
    files.put("music", "/gone", recursive=True)
    fetched = []

    class Going(type(files)):
        def get_file(self, path, *arguments, **options):
            fetched.append(path)
            if len(fetched) > 3:
                raise FileNotFoundError("the bucket does not exist")
            return super().get_file(path, *arguments, **options)

    fsspec.register_implementation("memory", Going, clobber=True)
    try:
        report, lines = embed("memory://gone", "-o", "out", expected=1)
    finally:
        fsspec.register_implementation("memory", type(files), clobber=True)
    assert (report["embedded"], len(report["failed"]), len(lines)) == (3, 3, 4)
    assert all("cannot be read: no such bucket" in line for line in lines[:3])
    report, _ = embed("memory://gone", "-o", "out")
    assert (report["embedded"], report["reused"]) == (3, 3)
    files.rm("/gone", recursive=True)


def test_no_usable_file_writes_nothing_and_the_repaired_ones_are_embedded_later():
    for number in range(6):
        Path(f"music/{number}.wav").rename(f"{number}.wav")
        Path(f"music/{number}.wav").write_bytes(b"RIFF")
    report, lines = embed("music", "-o", "out.parquet", expected=1)
    assert (report["output"], report["rows"], len(report["failed"])) == (None, 0, 6)
    assert len(lines) == 7 and not Path("out.parquet").exists() and not Path("out.parquet.parts").exists()
    Path("3.wav").replace("music/3.wav")
    report, _ = embed("music", "-o", "out.parquet", expected=1)
    assert (report["embedded"], len(report["failed"])) == (1, 5)
    assert pq.read_table("out.parquet")["path"].to_pylist() == ["music/3.wav"]


def test_a_half_written_part_is_named_and_once_removed_its_recordings_are_embedded_again():
    embed("music/0.wav", "music/1.wav", "-o", "out/")
    embed("music", "-o", "out")
    parts = sorted(Path("out").glob("part-*.parquet"))
    assert len(parts) == 2
    parts[1].write_bytes(parts[1].read_bytes()[:2000])
    result = run("embed", "music", "-e", "mfcc", "-o", "out")
    assert result.exit_code == 1 and len(result.stderr.splitlines()) == 1
    assert f"{parts[1]}: cut short; remove it, and its recordings are embedded again" in result.stderr
    parts[1].unlink()
    Path("out/.part-00001.parquet.tmp").write_bytes(b"PAR1")  # of a killed process
    report, _ = embed("music", "-o", "out")
    assert (report["embedded"], report["reused"], report["rows"]) == (4, 2, 6)
    assert not Path("out/.part-00001.parquet.tmp").exists()


def test_a_recording_that_is_named_twice_is_embedded_once():
    Path("list.csv").write_text("path\nmusic/0.wav\nmusic/0.wav\n")
    report, _ = embed("music/0.wav", "./music/0.wav", "music", "list.csv", "-o", "out.parquet")
    assert (report["embedded"], report["rows"]) == (6, 6)


def test_a_query_shorter_than_a_window_is_encoded_as_it_is():
    assert run("embed", "music", "-e", "maest-tiny:random", "-o", "lib.parquet").exit_code == 0  # windows of 5 s
    sound, _ = soundfile.read("music/2.wav", frames=RATE // 20)
    soundfile.write("short.wav", sound, RATE)
    result = run("find", "short.wav", "--in", "lib.parquet", "--json")
    assert result.exit_code == 0, result.stderr
    assert len(json.loads(result.stdout)) == 6
    soundfile.write("empty.wav", sound[:0], RATE)
    result = run("find", "empty.wav", "--in", "lib.parquet")
    assert result.exit_code == 1 and len(result.stderr.splitlines()) == 1 and "empty.wav: no samples" in result.stderr
