"""Every benchmark runs in a small size, here or in a test of its own; those that need other data are named."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = {
    "beat_decoder.py": ["--clips", "3"],
    "interval_coverage.py": ["--systems", "nsynth", "--repeats", "3"],
    "crops.py": ["--minutes", "1.1"],
    "grid.py": ["--probes", "3", "--plain-probes", "1", "--epochs", "1", "--device", "cpu"],
    "patchout.py": ["--seconds", "2", "--batch", "1", "--times", "1", "--device", "cpu", "--shares", "0", ".5"],
    "proportion_intervals.py": ["--repeats", "3", "--accuracies", ".9", "--slow"],
    "spectra.py": ["--seconds", "1", "--batch", "1", "--runs", "1"],
    "startup.py": ["--runs", "1"],
    "students.py": ["mert-v0", "--rounds", "1"],
}
# Minutes of work, or what a test does not have: a browser, songs of Pebble, features and runs, official weights.
BY_HAND = {
    "beat_decoder.py", "candidates.py", "differences.py", "equal_runs.py", "explorer.py", "jukebox.py",
    "patchout_scores.py", "real_audio.py", "recipes.py", "relative_pitch.py", "selection_gap.py", "speech_corpus.py",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("script", SMALL)
def test_a_small_run_prints_numbers(script):
    command = [sys.executable, BENCHMARKS / script, *SMALL[script]]
    done = subprocess.run(command, capture_output=True, text=True, cwd=BENCHMARKS.parent)
    assert done.returncode == 0, done.stderr[-2000:]
    assert sum(character.isdigit() for character in done.stdout) > 10


@pytest.mark.slow
def test_memory_is_that_of_the_embedding_process_and_files_are_added_to(tmp_path):
    output = tmp_path / "memory.json"
    for minutes in ("0.1", "0.2"):
        command = [
            sys.executable,
            BENCHMARKS / "memory.py",
            "--minutes",
            minutes,
            "--encoders",
            "mfcc",
            "--format",
            "wav",
        ]
        subprocess.run([*command, "--output", output], check=True, capture_output=True, cwd=BENCHMARKS.parent)
    results = json.loads(output.read_text())
    assert list(results) == ["mfcc, 0.1 minutes of wav", "mfcc, 0.2 minutes of wav"]
    assert all(50 < result["peak_mb"] < 3000 and result["cpu_seconds"] > 0 for result in results.values())


@pytest.mark.slow
def test_plans_are_compared_with_their_runs(tmp_path):
    output = tmp_path / "plan.json"
    small = ["--encoders", "mfcc", "--files", "3", "--seconds", "1", "--recipe", ""]
    command = [sys.executable, BENCHMARKS / "plan.py", *small, "--output", output]
    subprocess.run(command, check=True, capture_output=True, cwd=BENCHMARKS.parent)
    result = json.loads(output.read_text())["embed mfcc"]
    assert result["run_over_plan"] == pytest.approx(result["run"] / result["plan"], abs=0.02)
    assert result["is_in_range"] == (result["low"] <= result["run"] <= result["high"])


@pytest.mark.slow
def test_copies_by_encoders_are_found_and_counted(tmp_path):
    pytest.importorskip("av")
    (tmp_path / "songs").mkdir()
    for number in range(2):
        rng = np.random.default_rng(number)
        phase = 2 * np.pi * np.cumsum(np.repeat(300 * 2 ** (rng.integers(0, 24, 36) / 12), 4000)) / 16_000
        sound = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 6))
        soundfile.write(tmp_path / "songs" / f"{number}.wav", 0.1 * sound, 16_000)
    output = tmp_path / "copies.json"
    command = [sys.executable, BENCHMARKS / "find_copies.py", tmp_path, "-o", output]
    subprocess.run(command, check=True, capture_output=True, cwd=BENCHMARKS.parent)
    kinds = json.loads(output.read_text())["kinds"]
    assert all(kind["of"] == 2 and kind["other_pairs"] == 0 for kind in kinds.values())
    assert kinds["MP3 128 kbit/s"]["precision"] == 1 and kinds["MP3 128 kbit/s"]["found"] == 2


def test_every_benchmark_has_a_smoke_run_or_a_reason():
    scripts = {path.name for path in BENCHMARKS.glob("*.py")}
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    stems = {name.removesuffix(".py") for name in scripts - SMALL.keys() - BY_HAND}
    tested = {f"{stem}.py" for stem in stems if re.search(rf'"{stem}(\.py)?"|import {stem}\b', tests)}
    assert scripts == tested | SMALL.keys() | BY_HAND
    assert "coverage.py" not in scripts, "numba, and so librosa, would import it instead of the package"
