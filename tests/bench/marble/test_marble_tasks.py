"""Every task of MARBLE from the command line, on files of its real format, above chance."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from carrara.bench.protocols import constrained
from carrara.bench.separation.train import BY_DATASET, SeparationSettings
from carrara.bench.suites import SUITES
from carrara.cli._main import app

pytestmark = pytest.mark.slow

# What a probe on noise may reach on these small copies, with room for luck.
CHANCE = {
    "giantsteps/key": 0.55,
    "magnatagatune/tags": 0.6,
    "mtg-jamendo/top50": 0.6,
    "mtg-jamendo/genre": 0.6,
    "mtg-jamendo/instrument": 0.6,
    "mtg-jamendo/mood-theme": 0.6,
    "gtzan/genre": 0.55,
    "emomusic/emotion": 0.2,
    "nsynth/pitch": 0.5,
    "nsynth/instrument": 0.5,
    "vocalset/singer": 0.2,
    "vocalset/technique": 0.2,
}
# Tasks of the same data with other settings or splits.
VARIANTS = {
    "giantsteps/key-v2": 0.55,
    "magnatagatune/tags-v2": 0.6,
    "magnatagatune/tags-cleaned": 0.6,
    "mtg-jamendo/top50-v2": 0.6,
    "mtg-jamendo/genre-v2": 0.6,
    "mtg-jamendo/instrument-v2": 0.6,
    "mtg-jamendo/mood-theme-v2": 0.6,
    "emomusic/emotion-v2": 0.2,
}
FRAMES = ("gtzan/beats", "musdb18/stems")


@pytest.fixture
def run(everything, home, tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(home))
    options = ["--data", str(everything), "-o", str(tmp_path / "out"), "--device", "cpu", "--json"]
    return lambda *words: CliRunner().invoke(app, ["bench", *words, *options])


def check_scores(done, expected):
    assert done.exit_code == 0, done.stderr
    records = {record["task"]["name"]: record for record in json.loads(done.stdout)}
    assert set(records) == set(expected)
    for name, record in records.items():
        names = record["task"]["task"]["metrics"]
        value = sum(record["scores"][score]["value"] for score in names) / len(names)
        assert value > expected[name], f"{name}: {value}"
        assert record["partial"] == (not name.startswith("vocalset")), "small copies are marked partial"


def test_one_command_measures_every_task_above_chance(run):
    assert set(CHANCE) == set(SUITES["marble-14"].tasks) - set(FRAMES)
    done = run("chroma-mfcc", "--suite", "marble-14", "--partial")
    check_scores(done, CHANCE)
    for name in FRAMES:
        assert f"{name}: chroma-mfcc has no frames" in done.stderr


@pytest.mark.parametrize("protocol", ["linear", "constrained"])
def test_variants_of_the_tasks_are_measured_above_chance(run, protocol):
    # A linear probe is the cheaper one, but too weak for the ratings.
    expected = {name: least for name, least in VARIANTS.items() if ("emotion" in name) == (protocol == "constrained")}
    words = ("chroma-mfcc", "--protocol", protocol, "--task", ",".join(expected), "--partial")
    check_scores(run(*words), expected)


def test_beats_from_features_beat_those_from_noise(run, tiny, monkeypatch):
    monkeypatch.setattr(constrained, "LEARNING_RATES", (1e-3, 1e-2))
    done = run(str(tiny), "noise", "-t", "gtzan/beats", "--partial")
    assert done.exit_code == 0, done.stderr
    record, noise = json.loads(done.stdout)
    assert set(record["scores"]) == {
        "beat_f_70ms",
        "beat_f_20ms",
        "beat_f_70ms_pooled",
        "beat_f_20ms_pooled",
        "beat_f_70ms_trimmed",
    }
    assert record["scores"]["beat_f_70ms"]["value"] > noise["scores"]["beat_f_70ms"]["value"] + 0.2


def test_a_small_head_separates_stems(run, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(constrained, "LEARNING_RATES", (1e-2,))
    monkeypatch.setitem(BY_DATASET, "musdb18", SeparationSettings(hidden=16, batch_size=4, micro_batch_size=4))
    task = tmp_path / "stems.py"
    task.write_text(
        "from carrara.bench.tasks.musdb18.stems import TASK as STEMS\n"
        "TASK = STEMS.model_copy(update={'max_epochs': 8, 'examples_per_clip': 4, 'window_seconds': 1.0})\n"
    )
    done = run(str(tiny), "--task", str(task), "--partial")
    assert done.exit_code == 0, done.stderr
    (record,) = json.loads(done.stdout)
    names = ["sdr_vocals", "sdr_drums", "sdr_bass", "sdr_other"]
    assert set(record["scores"]) == {*names, "sdr"}
    # The mixture as the estimate of each stem has an SDR of about -5 dB on four stems of like power.
    assert sum(record["scores"][name]["value"] for name in names) / 4 > 0
    for score in record["scores"].values():
        assert score["scale"] == "dB" and score["unit"] == "track" and score["n"] == 2
