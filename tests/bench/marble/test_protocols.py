"""Every protocol on the tasks that it applies to, from the command line, on files of the real formats."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from carrara.bench.protocols import constrained
from carrara.bench.suites import SUITES
from carrara.bench.tasks import task
from carrara.cli._main import app

pytestmark = pytest.mark.slow

FRAMES = ("gtzan/beats", "musdb18/stems")
CLIPS = [name for name in SUITES["marble-14"].tasks if name not in FRAMES]
CLASSES = [name for name in CLIPS if task(name).task_type in ("multiclass", "multilabel")]


@pytest.fixture
def run(everything, home, tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(home))
    # The whole search runs in test_marble_tasks.py.
    monkeypatch.setattr(constrained, "LEARNING_RATES", (1e-3, 1e-2))

    def measure(*words):
        options = ["--data", str(everything), "-o", str(tmp_path / "out"), "--device", "cpu", "--partial", "--json"]
        done = CliRunner().invoke(app, ["bench", *words, *options])
        assert done.exit_code == 0, done.stderr
        return {(record["encoder"]["name"], record["task"]["name"]): record for record in json.loads(done.stdout)}

    return measure


def mean_score(record):
    names = record["task"]["task"]["metrics"]
    return sum(record["scores"][name]["value"] for name in names) / len(names)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["linear"], CLIPS),
        (["few-shot", "--set", "shots=4"], CLASSES),
        (["semi-constrained", "--set", "head=mlp", "--set", "learning_rates=[0.001]"], CLIPS),
    ],
    ids=["linear", "few-shot", "semi-constrained"],
)
def test_frozen_features_beat_noise(run, words, names):
    records = run("chroma-mfcc", "noise", "-t", ",".join(names), "--protocol", *words)
    assert {name for _, name in records} == set(names)
    gains = [mean_score(records["chroma-mfcc", name]) - mean_score(records["noise", name]) for name in names]
    # A dozen test clips for each task: two of twelve tasks may have bad luck, their mean may not.
    assert sum(gains) / len(gains) > 0.2 and sum(gain > 0 for gain in gains) >= len(gains) - 2
    for record in records.values():
        assert record["protocol"]["name"].startswith(words[0])


def test_the_settings_of_v2_run(run):
    names = [name for name in SUITES["marble-v2-settings"].tasks if name.endswith("-v2") and "beats" not in name]
    names.remove("chords1217/chords-v2")
    records = run("chroma-mfcc", "noise", "-t", ",".join(names))
    gains = [mean_score(records["chroma-mfcc", name]) - mean_score(records["noise", name]) for name in names]
    assert sum(gains) / len(gains) > 0.2 and sum(gain > 0 for gain in gains) >= len(gains) - 2


def test_a_head_on_frames_predicts_beats(run, tiny):
    records = run(str(tiny), "-t", "gtzan/beats", "--protocol", "semi-constrained", "--set", "head=conv",
                  "--set", "learning_rates=[0.01]")  # fmt: skip
    scores = records["tiny", "gtzan/beats"]["scores"]
    # Clips of four seconds have no beat after the fifth.
    assert scores.pop("beat_f_70ms_trimmed")["value"] == 0
    assert len(scores) == 4 and all(0 < score["value"] <= 1 for score in scores.values())


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_an_encoder_is_fine_tuned_on_every_task_type(run, tiny, mode):
    names = ["giantsteps/key", "mtg-jamendo/instrument", "emomusic/emotion", "gtzan/beats"]
    records = run(str(tiny), "-t", ",".join(names), "--protocol", "unconstrained", "--set", f"mode={mode}",
                  "--set", "epochs=2", "--set", "batch=4")  # fmt: skip
    assert [name for _, name in records] == names
    for record in records.values():
        assert record["protocol"]["chosen"]["mode"] == mode and record["protocol"]["tried"] == 1
