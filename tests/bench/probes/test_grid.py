"""The grid against the same probes trained one by one with PyTorch's own optimiser and scheduler."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from carrara.bench.probes import grid
from carrara.bench.probes.examples import Examples
from carrara.bench.probes.grid import GridSettings, ProbeProblem, probe_logits, train_grid
from carrara.bench.probes.probe import ProbeSpec

LAYERS = ("0", "1", "2")
RATES = (1e-4, 5e-3, 1e-2)
CLASSES = 4
SPECS = [ProbeSpec(name, (name,), rate) for name in LAYERS for rate in RATES]
SPECS += [ProbeSpec("weighted-sum", LAYERS, rate) for rate in RATES]
SPECS += [ProbeSpec("cnn", ("cnn",), rate) for rate in RATES]


def cross_entropy(logits_PBK, targets_B):
    return torch.stack([F.cross_entropy(logits_BK, targets_B) for logits_BK in logits_PBK])


def examples(seed, rows, counts=None, bad=None):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, CLASSES, rows)
    centres = np.random.default_rng(7).standard_normal((CLASSES, 12))
    layers = {}
    for index, name in enumerate((*LAYERS, "cnn")):
        dim = 8 if name == "cnn" else 12
        noise = rng.standard_normal((rows, dim)) * (1 + index)
        layers[name] = (centres[truth][:, :dim] + noise).astype(np.float16)
    if bad:
        layers[bad][3] = np.inf
    counts_N = np.ones(rows, dtype=np.int64) if counts is None else counts
    return Examples(layers, np.arange(rows), counts_N, truth)


def problem_of(train, valid):
    truth = torch.from_numpy(valid.targets_R)

    def score(logits_PRK):
        return [-F.cross_entropy(logits_RK, truth).item() for logits_RK in logits_PRK]

    return ProbeProblem(train, valid, cross_entropy, score)


@pytest.fixture(params=["sequential", "threads", "batched"])
def step_mode(request, monkeypatch):
    """The CPU's steps on one thread and on several, and the GPU's steps (one stack, batched products) on the CPU."""
    threads = torch.get_num_threads()
    torch.set_num_threads(3 if request.param == "threads" else 1)
    if request.param == "batched":
        monkeypatch.setattr(grid, "steps_batched", lambda device: True)
    yield request.param
    torch.set_num_threads(threads)


def compare(problem, settings, plainly, tolerance=1e-4):
    grid_probes = train_grid(problem, SPECS, settings)
    assert [trained.spec for trained in grid_probes] == SPECS
    lengths = set()
    for trained in grid_probes:
        plain = plainly(problem, trained.spec, settings)
        assert len(trained.history.losses) == len(plain.losses), trained.spec
        np.testing.assert_allclose(trained.history.losses, plain.losses, atol=tolerance, err_msg=str(trained.spec))
        np.testing.assert_allclose(trained.history.scores, plain.scores, atol=tolerance, err_msg=str(trained.spec))
        assert trained.history.best_epoch == plain.best_epoch
        assert trained.history.plateau.learning_rate == pytest.approx(plain.rates[-1])
        np.testing.assert_allclose(probe_logits(trained, problem.valid), plain.logits, atol=10 * tolerance)
        lengths.add(len(trained.history.losses))
    return lengths


def test_every_probe_equals_itself_trained_alone(step_mode, plainly):
    settings = GridSettings(CLASSES, hidden=32, batch_size=16, max_epochs=14, plateau_patience=1, stop_patience=3)
    lengths = compare(problem_of(examples(1, 90), examples(2, 50)), settings, plainly)
    assert len(lengths) > 2, "probes should stop at different epochs, or shrinking is not tested"


def test_linear_probes_equal_themselves_trained_alone(step_mode, plainly):
    settings = GridSettings(
        CLASSES, hidden=0, dropout=0.0, batch_size=16, max_epochs=14, plateau_patience=1, stop_patience=3
    )
    compare(problem_of(examples(1, 90), examples(2, 50)), settings, plainly)


def test_examples_of_many_rows_are_split_into_micro_batches_that_add_up(step_mode, plainly, monkeypatch):
    monkeypatch.setattr(grid, "CPU_BATCH_ROWS", 37)
    monkeypatch.setattr(grid, "GPU_BATCH_ROWS", 41)
    monkeypatch.setattr(grid, "BLOCK_BYTES", 60 * 12 * 4)
    counts = np.random.default_rng(0).integers(1, 12, 30)
    settings = GridSettings(CLASSES, hidden=24, batch_size=8, max_epochs=3, plateau_patience=1, stop_patience=3)
    compare(problem_of(examples(3, int(counts.sum()), counts), examples(4, 40)), settings, plainly)


def test_a_layer_that_is_not_finite_stops_its_own_probes_only(step_mode, plainly):
    settings = GridSettings(CLASSES, hidden=16, batch_size=16, max_epochs=3)
    problem = problem_of(examples(1, 60, bad="1"), examples(2, 30))
    probes = {(probe.spec.layer, probe.spec.learning_rate): probe for probe in train_grid(problem, SPECS, settings)}
    for (layer, rate), trained in probes.items():
        if layer in ("1", "weighted-sum"):
            assert trained.history.diverged and trained.best_N is None
            with pytest.raises(ValueError, match="never reached"):
                probe_logits(trained, problem.valid)
        else:
            plain = plainly(problem, ProbeSpec(layer, (layer,), rate), settings)
            np.testing.assert_allclose(trained.history.losses, plain.losses, atol=1e-4)


def test_the_grid_restores_the_number_of_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        train_grid(
            problem_of(examples(1, 40), examples(2, 20)), SPECS[:4], GridSettings(CLASSES, hidden=8, max_epochs=1)
        )
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_an_error_in_a_worker_reaches_the_caller(step_mode):
    def failing_score(logits_PRK):
        raise ZeroDivisionError("score")

    train, valid = examples(1, 40), examples(2, 20)
    problem = ProbeProblem(train, valid, cross_entropy, failing_score)
    with pytest.raises(ZeroDivisionError, match="score"):
        train_grid(problem, SPECS[:6], GridSettings(CLASSES, hidden=8, max_epochs=2))


def test_stopped_probes_leave_the_stack(monkeypatch):
    sizes = []
    keep = grid.ProbeStack.keep

    def record_size(self, rows):
        sizes.append((len(self.specs), len(rows), tuple(self.params_PN[rows].shape)))
        keep(self, rows)
        assert len(self.params_PN) == len(self.exp_avg_PN) == len(self.steps_P) == len(rows)

    monkeypatch.setattr(grid.ProbeStack, "keep", record_size)
    monkeypatch.setattr(grid, "steps_batched", lambda device: True)
    settings = GridSettings(CLASSES, hidden=16, batch_size=16, max_epochs=12, plateau_patience=1, stop_patience=2)
    train_grid(problem_of(examples(1, 60), examples(2, 30)), SPECS[:9], settings)
    assert sizes[0][0] == 9 and sizes[-1][1] == 0
    assert len(sizes) > 1, "all stopped at once; the test shows nothing"
