"""The search learns to separate toy songs, each point independently of the others; and its record."""

import numpy as np
import pytest
import torch

from carrara.bench.config import BenchConfig
from carrara.bench.predictions import predictions_path, read_predictions
from carrara.bench.probes.lr_schedule import Plateau, ProbeHistory
from carrara.bench.probes.probe import ProbeSpec
from carrara.bench.run import bench
from carrara.bench.separation import train
from carrara.bench.separation.evaluate import SDRAccumulator, iter_windows
from carrara.bench.separation.head import MaskHeadShape
from carrara.bench.separation.songs import load_songs
from carrara.bench.separation.train import (
    SeparationProblem,
    SeparationSettings,
    group_specs,
    separation_settings,
    train_trials,
)
from carrara.bench.separation.trial import MixtureBatch, SeparationTrial, training_bytes
from carrara.bench.separation.window_encoder import WindowEncoder
from carrara.bench.task_types.source_separation import TASK_TYPE
from carrara.bench.tasks import task as registered_task
from carrara.core.errors import DataError, UsageError

SETTINGS = SeparationSettings(hidden=16, batch_size=8, micro_batch_size=4)
SPECS = [ProbeSpec("0", ("0",), rate, 1) for rate in (1e-3, 1e-2)]


@pytest.fixture
def problem(task, splits, levels):
    few = task.model_copy(update={"max_epochs": 2, "examples_per_clip": 2})
    return SeparationProblem(
        few,
        WindowEncoder(levels(), 0.5, "cpu"),
        load_songs(few, splits["train"]),
        load_songs(few, splits["valid"]),
        SETTINGS,
        "cpu",
    )


@pytest.mark.slow
def test_a_record_of_stems_beats_the_mixture(task, toys, levels, tmp_path, monkeypatch, splits):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(train.BY_DATASET, "toys", SETTINGS)
    monkeypatch.setattr("carrara.bench.separation.evaluate.post_filter", lambda: "none")
    monkeypatch.setattr("carrara.bench.separation.run.post_filter", lambda: "none")
    monkeypatch.setattr("carrara.bench.protocols.constrained.LEARNING_RATES", (2e-2,))
    (record,) = bench(
        levels(), [task], results=tmp_path / "results", datasets={"toys": toys}, config=BenchConfig(seeds=(1, 2))
    )
    assert record.protocol.tried == 2 and len(record.grid) == 2
    assert record.protocol.chosen["hidden"] == 16 and record.protocol.chosen["post_filter"] == "none"
    assert record.protocol.monitor == "valid sdr"
    songs = load_songs(task, splits["test"])
    sums = SDRAccumulator(len(songs), 2)
    for windows in iter_windows(songs, WindowEncoder(levels(), 0.5, "cpu").window_format):
        sums.add(windows, torch.from_numpy(windows.mixture_BCT)[:, None].expand(-1, 2, -1, -1))
    mixture = sums.sdr_UJ().mean(0)
    for name, before in zip(("sdr_tone", "sdr_hiss"), mixture):
        score = record.scores[name]
        assert score.value > before + 4 and score.value > 3
        assert (score.unit, score.n, score.scale) == ("track", 3, "dB") and len(score.by_seed) == 2
        assert score.low <= score.value <= score.high
    assert record.scores["sdr"].value == pytest.approx(record.mean_score())
    predictions = read_predictions(predictions_path(record, tmp_path / "results"))
    assert predictions[1]["song-6"][0] == "song-6" and set(predictions[2]["song-8"][1]) == {"sdr_tone", "sdr_hiss"}


def test_a_point_trains_the_same_alone_and_with_others(problem):
    together = train_trials(problem, SPECS)
    for spec, trial in zip(SPECS, together):
        (alone,) = train_trials(problem, [spec])
        assert alone.history.scores == pytest.approx(trial.history.scores, abs=1e-3)
        assert alone.history.losses == pytest.approx(trial.history.losses, rel=1e-4)


def test_points_that_do_not_fit_at_once_are_trained_in_groups(problem, monkeypatch):
    at_once = train_trials(problem, SPECS)
    assert len(group_specs(problem, SPECS)) == 1
    monkeypatch.setattr(train, "STATE_BYTES", 1)
    assert group_specs(problem, SPECS) == [[SPECS[0]], [SPECS[1]]]
    in_groups = train_trials(problem, SPECS)
    for trial, other in zip(in_groups, at_once):
        assert trial.history.scores == pytest.approx(other.history.scores, abs=1e-3)
    with_weights = [trial.spec for trial in in_groups if trial.best is not None]
    assert with_weights == [max(in_groups, key=lambda trial: trial.history.best).spec]


def test_threads_change_nothing(problem):
    single = train_trials(problem, SPECS)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        threaded = train_trials(problem, SPECS)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    for first, second in zip(single, threaded):
        assert second.history.scores == pytest.approx(first.history.scores, abs=1e-2)


def test_the_micro_batches_of_a_step_add_up_to_one_step():
    spec, rng = SPECS[0], torch.Generator().manual_seed(0)
    features = {0: torch.randn(1, 6, 16, generator=rng).expand(4, -1, -1)}
    mixture = torch.rand(1, 6, 2049, generator=rng).expand(4, -1, -1)
    stems = mixture[:, None] * torch.tensor([0.3, 0.7])[:, None, None]
    trials = []
    for parts in (1, 2):
        trial = SeparationTrial(spec, MaskHeadShape(16, 16, 2049, 0.0), 2, ProbeHistory(Plateau(1e-3, 2), 5, 5), "cpu")
        size = 4 // parts
        for index in range(parts):
            part = slice(index * size, (index + 1) * size)
            trial.train_batch(
                MixtureBatch({0: features[0][part]}, mixture[part], stems[part], 1 / parts, index + 1 == parts)
            )
        trials.append(trial)
    assert trials[0].loss_sum.item() == pytest.approx(trials[1].loss_sum.item(), rel=1e-5)
    for one, other in zip(trials[0].heads.parameters(), trials[1].heads.parameters()):
        assert torch.allclose(one, other, atol=2e-4)


def test_the_loss_is_the_squared_distance_of_magnitudes():
    spec = SPECS[0]
    trial = SeparationTrial(spec, MaskHeadShape(16, 16, 2049, 0.0), 1, ProbeHistory(Plateau(1e-3, 2), 5, 5), "cpu")
    features, mixture, stem = torch.randn(2, 6, 16), torch.rand(2, 6, 2049), torch.rand(2, 1, 6, 2049)
    with torch.no_grad():
        mask = trial.heads[0].train()(features)
    expected = ((mask * mixture - stem[:, 0]) ** 2).mean().item()
    trial.train_batch(MixtureBatch({0: features}, mixture, stem, 1.0, True))
    assert trial.loss_sum.item() == pytest.approx(expected, rel=1e-5)


def test_marbles_search_of_a_95m_encoder_fits_in_8_gb_in_groups_of_one_layer():
    shape = MaskHeadShape(768, 512, 2049)
    parameters = 768 * 512 + 1024 * 512 + 512 * 2049 + 3 * 2 * 4 * 256 * (512 + 256 + 2) + 2 * (512 + 512 + 2049)
    assert training_bytes(shape, 4) == 4 * 5 * 4 * parameters
    assert 6 * training_bytes(shape, 4) < train.STATE_BYTES - 4 * 95e6 < 4 * 2**30


def test_a_task_has_the_settings_of_the_thesis_unless_it_is_pebbles(task):
    assert separation_settings(registered_task("musdb18/stems")) == SeparationSettings(512, 0.2, 64, 32)
    assert separation_settings(registered_task("pebble/stems")).hidden == 64


def test_scores_are_means_over_songs_and_stems(task):
    predictions = [{"sdr_tone": 2.0, "sdr_hiss": 4.0}, {"sdr_tone": 6.0, "sdr_hiss": -1.0}]
    assert TASK_TYPE.metrics(task, ["a", "b"], predictions) == {"sdr_tone": 4.0, "sdr_hiss": 1.5, "sdr": 2.75}
    with pytest.raises(UsageError, match="no metric 'accuracy'"):
        TASK_TYPE.check(task.model_copy(update={"extra_metrics": ("accuracy",)}))


def test_a_task_without_windows_is_refused(task, toys, levels, tmp_path):
    endless = task.model_copy(update={"window_seconds": None})
    with pytest.raises(UsageError, match="set window_seconds"):
        bench(levels(), [endless], results=tmp_path, datasets={"toys": toys})


def test_a_song_with_an_undecodable_stem_leaves_the_task_with_partial(task, toys, levels, tmp_path, monkeypatch):
    monkeypatch.setitem(train.BY_DATASET, "toys", SETTINGS)
    monkeypatch.setattr("carrara.bench.protocols.constrained.LEARNING_RATES", (2e-2,))
    quick = task.model_copy(update={"max_epochs": 1, "examples_per_clip": 2})
    stem = toys.folder / "8" / "hiss.wav"
    content = stem.read_bytes()
    options = {"results": tmp_path, "datasets": {"toys": toys}}
    try:
        stem.write_bytes(b"no sound")
        with pytest.raises(DataError, match=r"1 clips cannot be decoded.*hiss\.wav.*--partial"):
            bench(levels(), [quick], **options)
        (record,) = bench(levels(), [quick], partial=True, **options)
    finally:
        stem.write_bytes(content)
    assert record.partial and record.data.missing == ("song-8",) and record.data.n["test"] == 2


def test_corrupted_test_audio_is_refused(task, toys, levels, tmp_path):
    with pytest.raises(UsageError, match="--corrupt: toys/stems is not scored on corrupted audio"):
        bench(levels(), [task], results=tmp_path, datasets={"toys": toys}, config=BenchConfig(corruptions=("clip",)))


def test_a_head_that_diverges_is_tried_and_is_no_point_of_the_grid(problem):
    (trial,) = train_trials(problem, [ProbeSpec("0", ("0",), 1e30, 1)])
    assert trial.history.diverged and trial.best is None and trial.history.best_epoch == -1
    assert not np.isfinite(trial.history.best)
