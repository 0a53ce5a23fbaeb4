"""Training of a head against a plain loop; micro-batches; memory; divergence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from carrara.bench.probes import train_head as module
from carrara.bench.probes.examples import Examples
from carrara.bench.probes.heads import REGISTRY
from carrara.bench.probes.heads._base import HeadNetwork, HeadShape
from carrara.bench.probes.rng import epoch_permutation, initial_generator
from carrara.bench.probes.train_head import HeadProblem, HeadTraining, head_logits, train_head

DIM, CLASSES = 5, 3
TRAINING = HeadTraining("weighted-sum", ("0", "1"), 1e-2, 7, 0.01, 8, 6, 1, 3)


def examples(seed, count, longest=1):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, CLASSES, count)
    counts = rng.integers(1, longest + 1, count)
    centres = np.random.default_rng(3).standard_normal((CLASSES, DIM))
    target = np.repeat(truth, counts)
    layers = {name: (centres[target] + rng.standard_normal((len(target), DIM))).astype(np.float16) for name in "01"}
    return Examples(layers, np.arange(len(target)), counts, target)


def loss(logits_1RK, target_R):
    return F.cross_entropy(logits_1RK[0], target_R)[None]


def problem_of(train, valid, each_row=True):
    starts = np.cumsum(valid.counts_N) - valid.counts_N
    truth = torch.from_numpy(valid.targets_R if each_row else valid.targets_R[starts])
    return HeadProblem(train, valid, loss, lambda logits: (-F.cross_entropy(logits[0], truth).item(), "rule"))


def train_plainly(head, shape, problem, training):
    """Train with a plain loop, example by example within a step."""
    torch.manual_seed(initial_generator(training.seed, training.layer, training.learning_rate).initial_seed())
    network = HeadNetwork(head, shape, len(training.sources))
    adam = torch.optim.AdamW(network.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(adam, "max", factor=0.5, patience=training.plateau_patience)
    losses, scores = [], []
    train = problem.train
    starts = np.cumsum(train.counts_N) - train.counts_N

    def logits_of(examples, low, count):
        rows = np.arange(low, low + count)
        x = np.stack([examples.layers[name][rows].astype(np.float32) for name in training.sources])
        return network(torch.from_numpy(x), torch.ones(1, count, dtype=torch.bool)), rows

    for epoch in range(training.max_epochs):
        network.train()
        visits = epoch_permutation(training.seed, epoch, len(train.counts_N))
        total = []
        for low in range(0, len(visits), training.batch_size):
            step = [logits_of(train, starts[i], train.counts_N[i]) for i in visits[low : low + training.batch_size]]
            logits = torch.cat([own for own, _ in step])
            target = np.concatenate([train.targets_R[rows if shape.each_row else rows[:1]] for _, rows in step])
            error = F.cross_entropy(logits, torch.from_numpy(target))
            adam.zero_grad()
            error.backward()
            adam.step()
            total += [error.item()] * len(target)
        network.eval()
        with torch.no_grad():
            lows = np.cumsum(problem.valid.counts_N) - problem.valid.counts_N
            logits = torch.cat([logits_of(problem.valid, *pair)[0] for pair in zip(lows, problem.valid.counts_N)])
        scores.append(problem.monitor(logits[None])[0])
        schedule.step(scores[-1])
        losses.append(np.mean(total))
        if epoch - int(np.argmax(scores)) >= training.stop_patience:
            break
    return losses, scores


@pytest.mark.parametrize(
    ("name", "each_row", "block"),
    [("mlp", True, 2**27), ("lstm", True, 1200), ("lstm", False, 2**27), ("conv", False, 1200)],
)
def test_training_equals_a_plain_loop_with_and_without_micro_batches(name, each_row, block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", block)
    head, shape = REGISTRY.get(name), HeadShape(DIM, CLASSES, 8, 0.0, each_row)
    longest = 12 if head.frames else 1
    problem = problem_of(examples(1, 30, longest), examples(2, 20, longest), each_row)
    trained = train_head(head, shape, problem, TRAINING)
    losses, scores = train_plainly(head, shape, problem, TRAINING)
    assert len(trained.history.losses) == len(losses)
    np.testing.assert_allclose(trained.history.losses, losses, atol=2e-4)
    np.testing.assert_allclose(trained.history.scores, scores, atol=2e-4)
    assert trained.rule == "rule" and trained.history.best_epoch == int(np.argmax(scores))
    assert problem.monitor(head_logits(trained, problem.valid)[None])[0] == pytest.approx(max(scores), abs=2e-4)


def test_no_more_than_a_block_is_in_memory_unless_an_example_is_larger(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", 4 * 2 * DIM * 20)
    sizes = []
    fetch = Examples.fetch
    monkeypatch.setattr(
        Examples, "fetch", lambda self, names, rows, device: sizes.append(len(rows)) or fetch(self, names, rows, device)
    )
    train, valid = examples(1, 40, 9), examples(2, 20, 33)
    train_head(REGISTRY.get("conv"), HeadShape(DIM, CLASSES, 4, 0.0, False), problem_of(train, valid, False), TRAINING)
    assert max(train.counts_N) < 20 < max(valid.counts_N) and max(sizes) == max(valid.counts_N)
    assert sorted(set(sizes))[-2] > 9, "micro-batches hold several examples"
    large = {int(count) for count in valid.counts_N if count > 20}
    assert all(count <= 20 or count in large for count in sizes)


def test_the_same_seed_gives_the_same_head_and_another_seed_another():
    head, shape = REGISTRY.get("mlp"), HeadShape(DIM, CLASSES, 8, 0.3)
    problem = problem_of(examples(1, 30), examples(2, 20))
    before = torch.get_rng_state()
    first, again, other = (train_head(head, shape, problem, replace(TRAINING, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state()), "the global generator does not change"
    assert first.history.losses == again.history.losses != other.history.losses


def test_a_head_that_diverges_counts_its_remaining_epochs_as_done():
    epochs_done = []
    train, valid = examples(1, 30), examples(2, 20)
    train.layers["1"][3] = np.inf
    trained = train_head(
        REGISTRY.get("linear"),
        HeadShape(DIM, CLASSES),
        problem_of(train, valid),
        TRAINING,
        lambda amount=1, note="": epochs_done.append(amount),
    )
    assert trained.history.diverged and trained.best is None and sum(epochs_done) == TRAINING.max_epochs
    with pytest.raises(ValueError, match="never reached"):
        head_logits(trained, valid)
    with pytest.raises(ValueError, match="without targets"):
        train_head(
            REGISTRY.get("linear"), HeadShape(DIM, CLASSES), problem_of(replace(valid, targets_R=None), valid), TRAINING
        )
