"""One sentence about each system, from its scores: chance, the best, and what training added."""

import pytest

from carrara.bench.leaderboard.ranking import build_leaderboard
from carrara.bench.report.meaning import explain_systems
from carrara.core.record import Record

TASKS = ("pebble/key", "pebble/genre")


def records(system, scores, parameters=1000, half=0.03):
    return [
        Record.model_validate(
            {
                "task": {"name": task, "version": 1, "fingerprint": "f", "task": {"metrics": ["accuracy"]}},
                "data": {"name": "pebble", "index": "i", "n": {"train": 9, "valid": 9, "test": 9}},
                "encoder": {"name": system, "weights_sha256": "ab", "output_version": 1, "parameters": parameters},
                "protocol": {"name": "constrained", "version": 1, "tried": 1, "chosen": {}, "monitor": "valid"},
                "grid": [],
                "scores": {
                    "accuracy": {"value": score, "low": score - half, "high": score + half, "unit": "clip", "n": 9}
                },
                "run": {
                    "seed": 1,
                    "device": "cpu",
                    "seconds": {},
                    "versions": {},
                    "git": "",
                    "date": "",
                    "command": "",
                },
            }
        )
        for task, score in zip(TASKS, scores)
    ]


def explain(*systems):
    return explain_systems(build_leaderboard([record for system in systems for record in system]))


def test_each_sentence_follows_from_the_scores():
    said = explain(
        records("net", (0.8, 0.12)),
        records("net:random", (0.4, 0.1)),
        records("by-hand", (0.5, 0.9), parameters=0),
        records("noise", (0.1, 0.11)),
    )
    assert list(said) == ["by-hand", "net", "net:random", "noise"]
    assert said["by-hand"] == (
        "by-hand (rank 1 of 3) has 70.0 ± 2.1 on average over 2 tasks with features that were never trained: "
        "it is above chance on all 2 tasks, and has the best score of genre."
    )
    assert said["net"] == (
        "net (rank 2 of 3) has 46.0 ± 2.1 on average over 2 tasks: it is above chance on 1 of 2 tasks (not on genre), "
        "has the best score of key, and gained 21.0 points by training over the same network with random weights."
    )
    assert "with random weights, which is what the network's shape alone gives" in said["net:random"]
    assert said["noise"] == (
        "noise has 10.5 ± 2.1 on average over 2 tasks, which is what chance gives: "
        "its features say nothing about the music."
    )


@pytest.mark.parametrize(
    ("trained", "expected"), [((0.2, 0.2), "lost 20.0 points"), ((0.42, 0.4), "differs by +1.0 points")]
)
def test_training_that_harms_or_does_nothing_is_said(trained, expected):
    said = explain(records("net", trained), records("net:random", (0.4, 0.4)))["net"]
    assert expected in said
    assert "chance" not in said, "without a floor nothing is known of chance"


def test_a_system_alone_and_a_floor_alone_have_a_sentence():
    assert explain(records("net", (0.8, 0.12)))["net"] == "net (rank 1 of 1) has 46.0 ± 2.1 on average over 2 tasks."
    assert list(explain(records("noise", (0.1, 0.1)))) == ["noise"]
