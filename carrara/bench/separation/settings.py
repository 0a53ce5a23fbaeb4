"""The numbers of the separation head and of its training: MARBLE's, and smaller ones for Pebble.

From the thesis: 512 units, steps of 64 mixtures, dropout 0.2 (section 3.4; MARBLE's first code has 32 and 0.4). A step
is taken in parts whose gradients add up, so that memory does not grow with it; batch norm takes its statistics from a
part. Pebble's head is small, for a laptop trains 36 points of the search, four heads each, in minutes.
"""

from __future__ import annotations

from dataclasses import dataclass

from carrara.core.task import Task


@dataclass(frozen=True)
class Separation:
    """How a head is built and trained.

    Attributes:
        hidden: units of its linear layers and, both directions together, of its LSTMs.
        dropout: share of units dropped between the LSTMs.
        batch: mixtures of a step.
        part: mixtures that are held at once.
    """

    hidden: int = 512
    dropout: float = 0.2
    batch: int = 64
    part: int = 32


BY_DATASET = {"pebble": Separation(hidden=64, batch=4, part=4)}


def separation(task: Task) -> Separation:
    """Return the numbers for a task: the thesis's unless its dataset has its own."""
    return BY_DATASET.get(task.dataset, Separation())
