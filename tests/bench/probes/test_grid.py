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


def made(seed, rows, counts=None, bad=None):
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, CLASSES, rows)
    centres = np.random.default_rng(7).standard_normal((CLASSES, 12))
    layers = {}
    for place, name in enumerate((*LAYERS, "cnn")):
        width = 8 if name == "cnn" else 12
        noise = draw.standard_normal((rows, width)) * (1 + place)
        layers[name] = (centres[truth][:, :width] + noise).astype(np.float16)
    if bad:
        layers[bad][3] = np.inf
    counts_N = np.ones(rows, dtype=np.int64) if counts is None else counts
    return Examples(layers, np.arange(rows), counts_N, truth)


def asked(train, valid):
    truth = torch.from_numpy(valid.targets_R)

    def score(logits_PRK):
        return [-F.cross_entropy(logits_RK, truth).item() for logits_RK in logits_PRK]

    return ProbeProblem(train, valid, cross_entropy, score)


@pytest.fixture(params=["one after the other", "threads", "together"])
def manner(request, monkeypatch):
    """The CPU's way on one thread and on several, and the GPU's way (one stack, batched products) on the CPU."""
    threads = torch.get_num_threads()
    torch.set_num_threads(3 if request.param == "threads" else 1)
    if request.param == "together":
        monkeypatch.setattr(grid, "_together", lambda device: True)
    yield request.param
    torch.set_num_threads(threads)


def compare(question, settings, plainly, tolerance=1e-4):
    found = train_grid(question, SPECS, settings)
    assert [one.spec for one in found] == SPECS
    lengths = set()
    for one in found:
        plain = plainly(question, one.spec, settings)
        assert len(one.history.losses) == len(plain.losses), one.spec
        np.testing.assert_allclose(one.history.losses, plain.losses, atol=tolerance, err_msg=str(one.spec))
        np.testing.assert_allclose(one.history.scores, plain.scores, atol=tolerance, err_msg=str(one.spec))
        assert one.history.best_epoch == plain.best_epoch
        assert one.history.plateau.learning_rate == pytest.approx(plain.rates[-1])
        np.testing.assert_allclose(probe_logits(one, question.valid), plain.logits, atol=10 * tolerance)
        lengths.add(len(one.history.losses))
    return lengths


def test_every_probe_equals_itself_trained_alone(manner, plainly):
    settings = GridSettings(CLASSES, hidden=32, batch=16, max_epochs=14, plateau_patience=1, stop_patience=3)
    lengths = compare(asked(made(1, 90), made(2, 50)), settings, plainly)
    assert len(lengths) > 2, "probes should stop at different epochs, or shrinking is not tested"


def test_linear_probes_equal_themselves_trained_alone(manner, plainly):
    settings = GridSettings(
        CLASSES, hidden=0, dropout=0.0, batch=16, max_epochs=14, plateau_patience=1, stop_patience=3
    )
    compare(asked(made(1, 90), made(2, 50)), settings, plainly)


def test_examples_of_many_rows_are_cut_into_batches_and_add_up(manner, plainly, monkeypatch):
    monkeypatch.setattr(grid, "CPU_BATCH_ROWS", 37)
    monkeypatch.setattr(grid, "GPU_BATCH_ROWS", 41)
    monkeypatch.setattr(grid, "BLOCK_BYTES", 60 * 12 * 4)
    counts = np.random.default_rng(0).integers(1, 12, 30)
    settings = GridSettings(CLASSES, hidden=24, batch=8, max_epochs=3, plateau_patience=1, stop_patience=3)
    compare(asked(made(3, int(counts.sum()), counts), made(4, 40)), settings, plainly)


def test_a_layer_that_is_not_finite_kills_its_own_probes_only(manner, plainly):
    settings = GridSettings(CLASSES, hidden=16, batch=16, max_epochs=3)
    question = asked(made(1, 60, bad="1"), made(2, 30))
    found = {(one.spec.layer, one.spec.learning_rate): one for one in train_grid(question, SPECS, settings)}
    for (layer, rate), one in found.items():
        if layer in ("1", "weighted-sum"):
            assert one.history.diverged and one.best_N is None
            with pytest.raises(ValueError, match="never reached"):
                probe_logits(one, question.valid)
        else:
            plain = plainly(question, ProbeSpec(layer, (layer,), rate), settings)
            np.testing.assert_allclose(one.history.losses, plain.losses, atol=1e-4)


def test_the_grid_puts_the_number_of_threads_back():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        train_grid(asked(made(1, 40), made(2, 20)), SPECS[:4], GridSettings(CLASSES, hidden=8, max_epochs=1))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_a_fault_in_a_worker_reaches_the_caller(manner):
    def broken(logits_PRK):
        raise ZeroDivisionError("score")

    train, valid = made(1, 40), made(2, 20)
    question = ProbeProblem(train, valid, cross_entropy, broken)
    with pytest.raises(ZeroDivisionError, match="score"):
        train_grid(question, SPECS[:6], GridSettings(CLASSES, hidden=8, max_epochs=2))


def test_stopped_probes_leave_the_stack(monkeypatch):
    sizes = []
    kept = grid.ProbeStack.keep

    def watch(self, rows):
        sizes.append((len(self.specs), len(rows), tuple(self.value_PN[rows].shape)))
        kept(self, rows)
        assert len(self.value_PN) == len(self.first_PN) == len(self.steps_P) == len(rows)

    monkeypatch.setattr(grid.ProbeStack, "keep", watch)
    monkeypatch.setattr(grid, "_together", lambda device: True)
    settings = GridSettings(CLASSES, hidden=16, batch=16, max_epochs=12, plateau_patience=1, stop_patience=2)
    train_grid(asked(made(1, 60), made(2, 30)), SPECS[:9], settings)
    assert sizes[0][0] == 9 and sizes[-1][1] == 0
    assert len(sizes) > 1, "all stopped at once; the test shows nothing"
