"""What a person may ask of a run beyond one seed and clean sound: seeds, deformations, windows, the wall."""

from __future__ import annotations

import numpy as np
import pytest

from carrara.bench.predictions import predictions_path, read_predictions
from carrara.bench.probes.window_ensemble import RULES
from carrara.bench.protocols import constrained


def test_several_seeds_ride_in_one_pass_and_the_interval_covers_them(ask, monkeypatch, tmp_path, tags):
    passes = []
    train = constrained.train_grid
    monkeypatch.setattr(constrained, "train_grid", lambda *given: passes.append(len(given[1])) or train(*given))
    noisy = tags.model_copy(update={"labels": ("noisy", "low"), "name": "tones/two", "max_epochs": 3})
    alone = {seed: ask(noisy, seeds=(seed,), overwrite="always")[0] for seed in (1, 2, 3)}
    together = ask(noisy, seeds=(1, 2, 3), overwrite="always")[0]
    assert passes == [6, 6, 6, 18] and together.protocol.tried == 18
    for place, (seed, record) in enumerate(alone.items()):
        for name, score in together.scores.items():
            assert score.by_seed[place] == pytest.approx(record.scores[name].value, abs=1e-6)
        own = {(p.layer, p.learning_rate): p.valid for p in together.grid if p.seed == seed}
        assert own == pytest.approx({(p.layer, p.learning_rate): p.valid for p in record.grid}, abs=1e-5)
    assert together.protocol.chosen_by_seed == tuple(record.protocol.chosen for record in alone.values())
    for score in together.scores.values():
        assert score.value == pytest.approx(np.mean(score.by_seed))
    assert set(read_predictions(predictions_path(together, tmp_path / "results"))) == {1, 2, 3}
    assert ask(noisy, seeds=(2,))[0] == together, "a seed that was measured is not measured again"


def test_spoilt_sound_is_read_by_the_same_probe(ask, task):
    record = ask(task(), deform=("gain:-1db", "noise:-20db"))[0]
    assert list(record.deformed) == ["gain:-1db", "noise:-20db"]
    clean = record.scores["accuracy"].value
    assert record.deformed["gain:-1db"]["accuracy"].value == pytest.approx(clean, abs=0.12)
    assert record.deformed["noise:-20db"]["accuracy"].value < clean - 0.2
    assert ask(task(), deform=("gain:-1db",))[0] == record


def test_windows_that_answer_for_themselves_are_scored_two_ways(ask, task):
    cut = task(
        window_seconds=0.3,
        tail="drop",
        aggregate="window",
        scores=("accuracy_windows",),
        also=("accuracy_recordings",),
        monitor="accuracy_windows",
        name="tones/windows",
    )
    record = ask(cut)[0]
    assert record.scores["accuracy_windows"].n == record.scores["accuracy_recordings"].n == 18
    assert record.scores["accuracy_windows"].value > 0.8


def test_the_way_to_join_windows_is_chosen_on_validation(ask, task):
    cut = task(window_seconds=0.25, aggregate="ensemble", name="tones/ensemble")
    record = ask(cut)[0]
    assert record.protocol.chosen["windows"] in RULES
    assert record.scores["accuracy"].value > 0.8


def test_a_task_past_the_wall_is_marked(ask, task):
    assert not ask(task())[0].over_wall
    assert ask(task(), wall_hours=0.0, overwrite="always")[0].over_wall
