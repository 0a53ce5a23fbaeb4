"""The loop against a tutorial's; steps taken in parts; what it holds at once; where it stops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from carrara.bench.probes import train_head as module
from carrara.bench.probes.examples import Examples
from carrara.bench.probes.heads import REGISTRY
from carrara.bench.probes.heads._base import HeadShape, Reader
from carrara.bench.probes.rng import epoch_permutation, initial_generator
from carrara.bench.probes.train_head import HeadProblem, HeadTraining, head_logits, train_head

WIDTH, CLASSES = 5, 3
HOW = HeadTraining("weighted-sum", ("0", "1"), 1e-2, 7, 0.01, 8, 6, 1, 3)


def made(seed, examples, longest=1):
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, CLASSES, examples)
    counts = draw.integers(1, longest + 1, examples)
    centres = np.random.default_rng(3).standard_normal((CLASSES, WIDTH))
    target = np.repeat(truth, counts)
    layers = {name: (centres[target] + draw.standard_normal((len(target), WIDTH))).astype(np.float16) for name in "01"}
    return Examples(layers, np.arange(len(target)), counts, target)


def loss(logits_1RK, target_R):
    return F.cross_entropy(logits_1RK[0], target_R)[None]


def asked(train, valid, each_row=True):
    starts = np.cumsum(valid.counts_N) - valid.counts_N
    truth = torch.from_numpy(valid.targets_R if each_row else valid.targets_R[starts])
    return HeadProblem(train, valid, loss, lambda logits: (-F.cross_entropy(logits[0], truth).item(), "rule"))


def plainly(head, shape, question, how):
    """Train as a tutorial would, examples one by one within a step."""
    torch.manual_seed(initial_generator(how.seed, how.layer, how.learning_rate).initial_seed())
    reader = Reader(head, shape, len(how.sources))
    adam = torch.optim.AdamW(reader.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(adam, "max", factor=0.5, patience=how.plateau_patience)
    losses, scores = [], []
    train = question.train
    starts = np.cumsum(train.counts_N) - train.counts_N

    def heard(examples, low, count):
        rows = np.arange(low, low + count)
        x = np.stack([examples.layers[name][rows].astype(np.float32) for name in how.sources])
        return reader(torch.from_numpy(x), torch.ones(1, count, dtype=torch.bool)), rows

    for epoch in range(how.max_epochs):
        reader.train()
        visits = epoch_permutation(how.seed, epoch, len(train.counts_N))
        total = []
        for low in range(0, len(visits), how.batch):
            found = [heard(train, starts[one], train.counts_N[one]) for one in visits[low : low + how.batch]]
            logits = torch.cat([one for one, _ in found])
            target = np.concatenate([train.targets_R[rows if shape.each_row else rows[:1]] for _, rows in found])
            error = F.cross_entropy(logits, torch.from_numpy(target))
            adam.zero_grad()
            error.backward()
            adam.step()
            total += [error.item()] * len(target)
        reader.eval()
        with torch.no_grad():
            lows = np.cumsum(question.valid.counts_N) - question.valid.counts_N
            logits = torch.cat([heard(question.valid, *pair)[0] for pair in zip(lows, question.valid.counts_N)])
        scores.append(question.monitor(logits[None])[0])
        schedule.step(scores[-1])
        losses.append(np.mean(total))
        if epoch - int(np.argmax(scores)) >= how.stop_patience:
            break
    return losses, scores


@pytest.mark.parametrize(
    ("name", "each_row", "block"),
    [("mlp", True, 2**27), ("lstm", True, 1200), ("lstm", False, 2**27), ("conv", False, 1200)],
)
def test_it_trains_as_a_plain_loop_does_whole_or_in_parts(name, each_row, block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", block)
    head, shape = REGISTRY.get(name), HeadShape(WIDTH, CLASSES, 8, 0.0, each_row)
    longest = 12 if head.frames else 1
    question = asked(made(1, 30, longest), made(2, 20, longest), each_row)
    found = train_head(head, shape, question, HOW)
    losses, scores = plainly(head, shape, question, HOW)
    assert len(found.history.losses) == len(losses)
    np.testing.assert_allclose(found.history.losses, losses, atol=2e-4)
    np.testing.assert_allclose(found.history.scores, scores, atol=2e-4)
    assert found.rule == "rule" and found.history.best_epoch == int(np.argmax(scores))
    assert question.monitor(head_logits(found, question.valid)[None])[0] == pytest.approx(max(scores), abs=2e-4)


def test_no_more_than_a_block_is_held_unless_an_example_is_larger(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", 4 * 2 * WIDTH * 20)
    held = []
    fetch = Examples.fetch
    monkeypatch.setattr(
        Examples, "fetch", lambda self, names, rows, device: held.append(len(rows)) or fetch(self, names, rows, device)
    )
    train, valid = made(1, 40, 9), made(2, 20, 33)
    train_head(REGISTRY.get("conv"), HeadShape(WIDTH, CLASSES, 4, 0.0, False), asked(train, valid, False), HOW)
    assert max(train.counts_N) < 20 < max(valid.counts_N) and max(held) == max(valid.counts_N)
    assert sorted(set(held))[-2] > 9, "parts of a step hold several examples"
    large = {int(count) for count in valid.counts_N if count > 20}
    assert all(count <= 20 or count in large for count in held)


def test_the_same_seed_gives_the_same_head_and_another_seed_another():
    head, shape = REGISTRY.get("mlp"), HeadShape(WIDTH, CLASSES, 8, 0.3)
    question = asked(made(1, 30), made(2, 20))
    before = torch.get_rng_state()
    one, two, other = (train_head(head, shape, question, replace(HOW, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state()), "whoever draws after us draws what he would have drawn"
    assert one.history.losses == two.history.losses != other.history.losses


def test_a_head_that_is_lost_says_so_and_settles_its_epochs():
    settled = []
    train, valid = made(1, 30), made(2, 20)
    train.layers["1"][3] = np.inf
    found = train_head(
        REGISTRY.get("linear"),
        HeadShape(WIDTH, CLASSES),
        asked(train, valid),
        HOW,
        lambda amount=1, note="": settled.append(amount),
    )
    assert found.history.diverged and found.best is None and sum(settled) == HOW.max_epochs
    with pytest.raises(ValueError, match="never reached"):
        head_logits(found, valid)
    with pytest.raises(ValueError, match="without targets"):
        train_head(REGISTRY.get("linear"), HeadShape(WIDTH, CLASSES), asked(replace(valid, targets_R=None), valid), HOW)
