"""What every protocol promises: to choose without the test side, and to read that once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from carrara.bench.answers._base import Answer
from carrara.bench.sides import Side
from carrara.core.record import GridPoint
from carrara.core.task import Task


@dataclass(frozen=True)
class Sides:
    """The data of a task. The test side is a door that is opened once, after the choice."""

    train: Side
    valid: Side
    test: Callable[[], Side]


@dataclass(frozen=True)
class Outcome:
    """What a protocol found.

    Attributes:
        tried: how many probes were trained.
        grid: those that reached a finite validation score.
        chosen: which of them validation chose.
        truths, answers: one a test clip.
        seconds: wall time by phase.
    """

    tried: int
    grid: tuple[GridPoint, ...]
    chosen: dict[str, Any]
    truths: Sequence[Any]
    answers: Sequence[Any]
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Protocol:
    """A set of rules: its name, its version, and `run`: (task, answer, sides, seed, device) → outcome."""

    name: str
    version: int
    run: Callable[[Task, Answer, Sides, int, str], Outcome]
