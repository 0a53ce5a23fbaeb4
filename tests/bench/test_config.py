"""Beyond one seed and clean audio: several seeds, corrupted test audio, windows, the time limit, names of settings."""

from __future__ import annotations

import numpy as np
import pytest

from carrara.bench.config import parse_protocol_name
from carrara.bench.predictions import predictions_path, read_predictions
from carrara.bench.probes.window_ensemble import RULES
from carrara.bench.protocols.constrained import SearchSettings
from carrara.core.errors import UsageError


def test_several_seeds_equal_each_alone_and_the_interval_covers_them(measure, tmp_path, tags):
    noisy = tags.model_copy(update={"labels": ("noisy", "low"), "name": "tones/two", "max_epochs": 3})
    alone = {seed: measure(noisy, seeds=(seed,), overwrite="always")[0] for seed in (1, 2, 3)}
    together = measure(noisy, seeds=(1, 2, 3), overwrite="always")[0]
    assert together.protocol.tried == 18
    for index, (seed, record) in enumerate(alone.items()):
        for name, score in together.scores.items():
            assert score.by_seed[index] == pytest.approx(record.scores[name].value, abs=1e-6)
        own = {(p.layer, p.learning_rate): p.valid for p in together.grid if p.seed == seed}
        assert own == pytest.approx({(p.layer, p.learning_rate): p.valid for p in record.grid}, abs=1e-5)
    assert together.protocol.chosen_by_seed == tuple(record.protocol.chosen for record in alone.values())
    for score in together.scores.values():
        assert score.value == pytest.approx(np.mean(score.by_seed))
    assert set(read_predictions(predictions_path(together, tmp_path / "results"))) == {1, 2, 3}
    assert measure(noisy, seeds=(2,))[0] == together, "a seed that was measured is not measured again"


def test_corrupted_audio_is_scored_by_the_same_probe(measure, task):
    record = measure(task(), corruptions=("gain:-1db", "noise:-20db"))[0]
    assert list(record.robustness) == ["gain:-1db", "noise:-20db"]
    clean = record.scores["accuracy"].value
    assert record.robustness["gain:-1db"]["accuracy"].value == pytest.approx(clean, abs=0.12)
    assert record.robustness["noise:-20db"]["accuracy"].value < clean - 0.2
    assert measure(task(), corruptions=("gain:-1db",))[0] == record


def test_tasks_scored_per_window_record_both_scores(measure, task):
    cut = task(
        window_seconds=0.3,
        partial_window="drop",
        aggregate="window",
        metrics=("accuracy_windows",),
        extra_metrics=("accuracy_recordings",),
        monitor="accuracy_windows",
        name="tones/windows",
    )
    record = measure(cut)[0]
    assert record.scores["accuracy_windows"].n == record.scores["accuracy_recordings"].n == 18
    assert record.scores["accuracy_windows"].value > 0.8


def test_the_rule_for_windows_is_chosen_on_validation(measure, task):
    cut = task(window_seconds=0.25, aggregate="ensemble", name="tones/ensemble")
    record = measure(cut)[0]
    assert record.protocol.chosen["windows"] in RULES
    assert record.scores["accuracy"].value > 0.8


def test_a_task_over_the_time_limit_is_marked(measure, task):
    assert not measure(task())[0].exceeded_time_limit
    assert measure(task(), time_limit_hours=0.0, overwrite="always")[0].exceeded_time_limit


def test_convolutional_features_are_a_setting_that_the_record_names(measure, task, bands):
    class WithCnn(bands):
        def __init__(self):
            super().__init__()
            self.card = self.card.model_copy(update={"cnn_dim": 5})

        def forward_with_cnn(self, samples_BT, lengths_B=None):
            layers = self(samples_BT, lengths_B)
            return layers, layers[:, 0, :, :5]

    plain = measure(task(max_epochs=2), encoder=WithCnn())[0]
    assert {point.layer for point in plain.grid} == {"0", "1", "weighted-sum"}
    settings = {"layers": "transformer+cnn"}
    record = measure(task(max_epochs=2), encoder=WithCnn(), settings=settings)[0]
    assert record.protocol.name == "constrained:layers=transformer+cnn"
    assert {point.layer for point in record.grid} == {"0", "1", "cnn", "weighted-sum"}
    own = {(p.layer, p.learning_rate): p.valid for p in record.grid}
    assert {(p.layer, p.learning_rate): p.valid for p in plain.grid}.items() <= own.items(), "cnn changed the others"
    with pytest.raises(UsageError, match="bands has no convolutional features"):
        measure(task(), settings=settings)


def test_pooling_and_standardisation_are_settings_that_the_record_names_and_the_default_is_unchanged(measure, task):
    default = measure(task(max_epochs=3))[0]
    plain = measure(task(max_epochs=3), settings={"pooling": "mean", "standardise": False}, overwrite="always")[0]
    settings = {"pooling": "mean-std", "standardise": True}
    record = measure(task(max_epochs=3), settings=settings)[0]
    assert record.protocol.name == "constrained:pooling=mean-std,standardise=True"
    assert parse_protocol_name(record.protocol.name).protocol_settings() == SearchSettings(**settings)
    assert default.protocol.name == "constrained" and default.grid == plain.grid
    assert default.task.fingerprint == record.task.fingerprint and record.grid != default.grid
