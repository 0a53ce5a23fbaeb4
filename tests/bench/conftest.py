"""What the bench tests share: small random features and the plain way to train one probe."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from carrara.bench.draws import dropout_generator, kept, order
from carrara.bench.examples import Examples
from carrara.bench.grid import GridSettings, Question
from carrara.bench.probe import ProbeShape, ProbeSpec, initial_probe


@dataclass
class Plain:
    """What the plain loop found for one probe."""

    losses: list[float]
    scores: list[float]
    rates: list[float]
    best: float
    best_epoch: int
    logits: torch.Tensor


def train_plainly(question: Question, spec: ProbeSpec, settings: GridSettings) -> Plain:
    """Train one probe as a tutorial would: torch's Adam, torch's scheduler, autograd, one probe in the world."""
    train, valid = question.train, question.valid
    several = len(spec.sources) if len(spec.sources) > 1 else 0
    shape = ProbeShape(train.width(spec.sources[0]), settings.hidden, settings.outputs, settings.dropout, several)
    probe = initial_probe(spec, shape)
    adam = torch.optim.Adam(probe.parameters(), lr=spec.learning_rate)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        adam, mode="max", factor=0.5, patience=settings.plateau_patience
    )
    heard = features(train, spec)
    watched = features(valid, spec)
    starts = np.concatenate(([0], np.cumsum(train.counts_N)))
    found = Plain([], [], [], -np.inf, -1, torch.empty(0))
    for epoch in range(settings.max_epochs):
        visits = order(spec.seed, epoch, len(train.counts_N))
        losses = []
        for step, low in enumerate(range(0, len(visits), settings.batch)):
            rows = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in visits[low : low + settings.batch]])
            generator = dropout_generator(spec.seed, epoch, step)
            mask = torch.from_numpy(kept(generator, len(rows), settings.hidden, settings.dropout))
            logits = probe(heard[..., rows, :], mask)
            loss = question.loss(logits[None], torch.from_numpy(train.targets_R[rows]))[0]
            adam.zero_grad()
            loss.backward()
            adam.step()
            losses.append(loss.item())
        with torch.no_grad():
            answered = probe(watched)
        score = question.score(answered[None])[0]
        schedule.step(score)
        found.losses.append(float(np.mean(losses)))
        found.scores.append(score)
        found.rates.append(adam.param_groups[0]["lr"])
        if score > found.best:
            found.best, found.best_epoch, found.logits = score, epoch, answered
        if epoch - found.best_epoch >= settings.stop_patience:
            break
    return found


def features(examples: Examples, spec: ProbeSpec) -> torch.Tensor:
    """Return what a probe hears of all rows, `[R, D]` or `[L, R, D]`."""
    layers = [torch.from_numpy(np.asarray(examples.layers[name][examples.rows_R], np.float32)) for name in spec.sources]
    return layers[0] if len(layers) == 1 else torch.stack(layers)


@pytest.fixture
def plainly():
    return train_plainly
