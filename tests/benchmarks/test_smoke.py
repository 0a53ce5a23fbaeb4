"""Every benchmark runs in a small size, here or in a test of its own; those that need other data are named."""

import json
import re
import shutil
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
# What they need beyond this repository, or beyond a test's minutes.
BY_HAND = {
    "differences.py": "checkouts of MERT and fairseq",
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Twelve recordings of a tone each, with labels.csv for recipes of tags."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = ["path,split,tags[]"]
    for number in range(12):
        tone = 0.3 * np.sin(2 * np.pi * (200 + 40 * number) * np.arange(7 * 16_000) / 16_000)
        soundfile.write(folder / f"{number}.wav", tone, 16_000)
        rows.append(f"{number}.wav,{'valid' if number > 8 else 'train'},{'low' if number % 2 else 'high'}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.mark.slow
def test_gaps_of_selected_probes_are_printed(run, pebble_folder, own_home, capsys):
    small = ["--tasks", "pebble/key", "--data-dir", pebble_folder, "--limit", "8", "--draws", "20"]
    run("selection_gap.py", ["mfcc", *small])
    cells = capsys.readouterr().out.splitlines()[-1].strip("| ").split("|")
    assert cells[1].strip() == "mean" and -100 <= float(cells[-2]) <= 100


@pytest.mark.slow
def test_invariant_features_are_scored_on_theory_and_covers(run, pebble_folder, own_home, capsys):
    run("relative_pitch.py", [pebble_folder])
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines][-1] == "pebble/covers" and len(lines) == 5
    assert all(0 <= float(line.rpartition(" ")[2]) <= 1 for line in lines)


@pytest.mark.slow
def test_recipes_are_trained_drawn_and_tabulated(run, corpus, own_home, tmp_path):
    run("recipes.py", [corpus, "-o", tmp_path / "out", "--steps", "1", "--only", "contrastive"])
    assert {path.name for path in (tmp_path / "out").glob("contrastive.*")} == {"contrastive.jsonl", "contrastive.png"}
    assert (tmp_path / "out/table.md").read_text().splitlines()[2].startswith("| contrastive |")


@pytest.mark.slow
def test_taggers_with_patchout_are_trained_scored_and_drawn(run, corpus, own_home, tmp_path, capsys):
    small = ["--corpus", corpus, "--steps", "1", "--batch", "2", "--device", "cpu"]
    run("patchout_scores.py", [tmp_path, *small])
    last = capsys.readouterr().out.splitlines()[-1].split()
    assert last[0] == "EfficientNet" and float(last[1]) > 0 and 0 <= float(last[2]) <= 1
    assert (tmp_path / "patchout.png").stat().st_size > 10_000


@pytest.mark.slow
def test_a_repeated_run_has_equal_features_and_scores(run, pebble_folder, capsys):
    small = ["--tasks", "pebble/key", "--data-dir", pebble_folder, "--limit", "8"]
    run("equal_runs.py", ["mfcc", *small, "--threads", "1", "--also", "again"])
    cells = [cell.strip() for cell in capsys.readouterr().out.splitlines()[-1].strip("|").split("|")]
    assert cells[:4] == ["mfcc", "again", "0.000 %", "0.0e+00"] and {float(cell) for cell in cells[-3:]} == {0.0}


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("espeak-ng"), reason="espeak-ng is not installed")
def test_speech_is_rendered(run, tmp_path):
    run("speech_corpus.py", [tmp_path, "--files", "1"])
    samples, rate = soundfile.read(tmp_path / "speech-00000.flac")
    assert len(samples) == 30 * rate and np.abs(samples).max() > 0.01


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
    result = json.loads(output.read_text())["embed mfcc, 3 files"]
    assert result["run_over_plan"] == pytest.approx(result["run"] / result["plan"], abs=0.02)
    assert result["is_in_range"] == (result["low"] <= result["run"] <= result["high"])


@pytest.mark.web
@pytest.mark.slow
def test_the_explorer_is_opened_pointed_at_and_played(browser, tmp_path):
    output = tmp_path / "explorer.json"
    small = ["--rows", "300", "--seconds", "0.3", "--files", "1", "--length", "4"]
    command = [sys.executable, BENCHMARKS / "explorer.py", *small, "-o", output]
    subprocess.run(command, check=True, capture_output=True, cwd=BENCHMARKS.parent)
    result = json.loads(output.read_text())
    assert [result["frames"][0][gesture]["count"] > 0 for gesture in ("point", "zoom", "drag", "lasso")] == [True] * 4
    for gesture in ("point", "click"):
        delays = result["sound"][gesture]
        assert set(delays) == {"wav", "flac", "mp3"} and all(each["median_ms"] > 0 for each in delays.values())


@pytest.mark.slow
def test_a_small_jukebox_is_written_imported_and_encodes(tmp_path):
    sizes = "layer=2 dim=32 num_heads=2 context=64 row_length=4 codebook_size=64 code_dim=8 codec_channels=4 "
    sizes += "codec_depth=1 num_artists=5 num_genres=3 time_bins=4096"
    changes = [part for size in sizes.split() for part in ("--set", size)]
    command = [sys.executable, BENCHMARKS / "jukebox.py", tmp_path, "--seconds", "1", *changes]
    done = subprocess.run(command, capture_output=True, text=True, cwd=BENCHMARKS.parent)
    assert done.returncode == 0, done.stderr[-2000:]
    works = [line.rsplit(maxsplit=4)[0] for line in done.stdout.splitlines()]
    assert works == ["writing 72 blocks", "importing 2 of them", "loading, encoding 1 s"]
    assert (tmp_path / "imported/model.safetensors").is_file()


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
    stems = {name.removesuffix(".py") for name in scripts - SMALL.keys() - BY_HAND.keys()}
    tested = {f"{stem}.py" for stem in stems if re.search(rf'"{stem}(\.py)?"|import {stem}\b', tests)}
    assert scripts == tested | SMALL.keys() | BY_HAND.keys()
    assert "coverage.py" not in scripts, "numba, and so librosa, would import it instead of the package"
