"""The grid against probes of torch.nn with PyTorch's own random draws: equal distributions of scores over seeds.

Nothing is shared with the plain probes but the examples: their initial weights are nn.Linear's, dropout is nn.Dropout,
torch.randperm shuffles. The compared scores are the best validation accuracy and that epoch's accuracy on test rows.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torch import nn

from carrara.bench.probes.examples import Examples
from carrara.bench.probes.grid import GridSettings, ProbeProblem, probe_logits, train_grid
from carrara.bench.probes.probe import ProbeSpec

pytestmark = pytest.mark.slow

SEEDS = 30
CLASSES, DIM, LAYERS = 4, 10, ("0", "1", "2")
SETTINGS = {"outputs": CLASSES, "batch_size": 16, "max_epochs": 12, "plateau_patience": 1, "stop_patience": 4}


def draw_examples(seed, rows):
    """Return noisy class centres in three layers, each noisier than the one before."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, CLASSES, rows)
    centres = np.random.default_rng(7).standard_normal((CLASSES, DIM))
    layers = {
        name: (centres[truth] + (1.2 + index) * rng.standard_normal((rows, DIM))).astype(np.float16)
        for index, name in enumerate(LAYERS)
    }
    return Examples(layers, np.arange(rows), np.ones(rows, dtype=np.int64), truth)


TRAIN, VALID, TEST = draw_examples(1, 96), draw_examples(2, 150), draw_examples(3, 150)


class WeightedSum(nn.Module):
    """Layers `[B, L, D]` summed by a learned softmax whose logits are drawn from a standard normal."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.randn(len(LAYERS)))

    def forward(self, x_BLD):
        return torch.einsum("l,bld->bd", self.logits.softmax(0), x_BLD)


def train_with_torch(sources, hidden, dropout, rate, seed):
    """Return the best validation accuracy and the test accuracy at that epoch of one probe of torch.nn."""
    torch.manual_seed(seed)
    stack = [
        torch.stack([torch.from_numpy(part.layers[name].astype(np.float32)) for name in sources], 1)
        for part in (TRAIN, VALID, TEST)
    ]
    first = [WeightedSum()] if len(sources) > 1 else [nn.Flatten()]
    inner = [nn.Linear(DIM, hidden), nn.ReLU(), nn.Dropout(dropout)] if hidden else []
    probe = nn.Sequential(*first, *inner, nn.Linear(hidden or DIM, CLASSES))
    adam = torch.optim.Adam(probe.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(adam, mode="max", factor=0.5, patience=1)
    targets_R = torch.from_numpy(TRAIN.targets_R)
    best, test, best_epoch = -1.0, -1.0, -1
    for epoch in range(SETTINGS["max_epochs"]):
        probe.train()
        for rows_B in torch.randperm(len(targets_R)).split(SETTINGS["batch_size"]):
            adam.zero_grad()
            nn.functional.cross_entropy(probe(stack[0][rows_B]), targets_R[rows_B]).backward()
            adam.step()
        probe.eval()
        with torch.no_grad():
            valid, tested = (
                (probe(x).argmax(1).numpy() == part.targets_R).mean() for x, part in zip(stack[1:], (VALID, TEST))
            )
        schedule.step(valid)
        if valid > best:
            best, test, best_epoch = valid, tested, epoch
        if epoch - best_epoch >= SETTINGS["stop_patience"]:
            break
    return best, test


def train_in_the_grid(sources, hidden, dropout, rate):
    """Return the same two accuracies of every seed, `[seeds, 2]`, from one grid."""
    truth = torch.from_numpy(VALID.targets_R)

    def loss(logits_PBK, targets_B):
        return torch.stack([nn.functional.cross_entropy(logits_BK, targets_B) for logits_BK in logits_PBK])

    def score(logits_PRK):
        return (logits_PRK.argmax(-1) == truth).double().mean(1).tolist()

    name = sources[0] if len(sources) == 1 else "weighted-sum"
    specs = [ProbeSpec(name, sources, rate, seed) for seed in range(SEEDS)]
    settings = GridSettings(hidden=hidden, dropout=dropout, **SETTINGS)
    rows = []
    for trained in train_grid(ProbeProblem(TRAIN, VALID, loss, score), specs, settings):
        predicted_R = probe_logits(trained, TEST).argmax(1).numpy()
        rows.append((max(trained.history.scores), (predicted_R == TEST.targets_R).mean()))
    return np.array(rows)


@pytest.mark.parametrize(
    ("sources", "hidden", "dropout", "rate"),
    [(("0",), 32, 0.2, 5e-3), (("1",), 0, 0.0, 2e-2), (LAYERS, 32, 0.5, 5e-3)],
    ids=["one layer", "linear", "weighted sum"],
)
def test_scores_over_seeds_are_distributed_as_those_of_torch(sources, hidden, dropout, rate):
    ours = train_in_the_grid(sources, hidden, dropout, rate)
    theirs = np.array([train_with_torch(sources, hidden, dropout, rate, seed) for seed in range(SEEDS)])
    assert len(set(map(tuple, ours))) > SEEDS / 2, "seeds should differ"
    for index, kind in enumerate(("validation", "test")):
        a, b = ours[:, index], theirs[:, index]
        error = np.sqrt(a.var(ddof=1) / SEEDS + b.var(ddof=1) / SEEDS)
        assert abs(a.mean() - b.mean()) < 3 * error, kind
        assert ks_2samp(a, b).pvalue > 0.005, kind


def test_another_learning_rate_would_be_noticed():
    ours = train_in_the_grid(("0",), 32, 0.2, 5e-4)
    theirs = np.array([train_with_torch(("0",), 32, 0.2, 1e-3, seed) for seed in range(SEEDS)])
    assert ks_2samp(ours[:, 0], theirs[:, 0]).pvalue < 0.005
