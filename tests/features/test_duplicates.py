"""Near-duplicates of a library: re-encoded and cut recordings are found, and similar ones are not."""

import json

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from carrara.cli._main import app

RATE = 16_000
SONGS = 4


@pytest.fixture
def music(tmp_path, monkeypatch):
    """Four melodies of the same instrument, each with an MP3 copy, and an excerpt of the first at another level."""
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for number in range(SONGS):
        rng = np.random.default_rng(number)
        notes = 220 * 2 ** (rng.integers(0, 24, 40) / 12)
        phase = 2 * np.pi * np.cumsum(np.repeat(notes, RATE // 4)) / RATE
        sound = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 6))
        sound = 0.1 * (sound + 0.2 * rng.standard_normal(len(sound)))
        soundfile.write(f"{number}.wav", sound, RATE)
        soundfile.write(f"{number}.mp3", sound, RATE)
        if number == 0:
            soundfile.write("0-cut.flac", 0.3 * sound[2 * RATE + 77 : 8 * RATE], RATE)
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("indexed", [False, True])
def test_copies_are_found_and_nothing_else(music, indexed):
    assert run("embed", ".", "-e", "chroma-mfcc", "-o", "lib.parquet").exit_code == 0
    library = "lib.parquet"
    if indexed:
        assert run("index", library).exit_code == 0
        library = "lib.index"
    result = run("dedupe", library, "--json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["groups"] == [["0-cut.flac", "0.mp3", "0.wav"], *([f"{n}.mp3", f"{n}.wav"] for n in (1, 2, 3))]
    assert report["compared"] > 3 + 3, "similar recordings were compared too"
    cut = next(pair for pair in report["pairs"] if {pair["first"], pair["second"]} == {"0-cut.flac", "0.wav"})
    assert abs(cut["offset_seconds"]) == pytest.approx(2.0, abs=0.05)
    assert cut["seconds"] == pytest.approx(6.0, abs=0.5)
    printed = run("dedupe", library)
    assert printed.stdout.splitlines()[:3] == ["1\t0-cut.flac", "1\t0.mp3", "1\t0.wav"]


def test_files_that_are_gone_are_reported_and_the_rest_compared(music):
    assert run("embed", ".", "-e", "chroma-mfcc", "-o", "lib.parquet").exit_code == 0
    (music / "1.mp3").unlink()
    result = run("dedupe", "lib.parquet", "--json")
    assert result.exit_code == 1 and "1.mp3: no such file" in result.stderr
    assert [len(group) for group in json.loads(result.stdout)["groups"]] == [3, 2, 2]


def test_a_library_of_one_recording_has_no_duplicates(music):
    assert run("embed", "1.wav", "-e", "chroma-mfcc", "-o", "lib.parquet").exit_code == 0
    assert json.loads(run("dedupe", "lib.parquet", "--json").stdout)["groups"] == []
