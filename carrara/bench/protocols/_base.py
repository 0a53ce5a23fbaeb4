"""What every protocol promises: from a task and an encoder to one answer a test clip, the test side read once, last."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from carrara.bench.split_features import SplitFeatures
from carrara.bench.task_types._base import TaskType
from carrara.core.clip import Clip
from carrara.core.record import GridPoint
from carrara.core.settings import Settings
from carrara.core.task import Task
from carrara.encoders._base import Encoder


@dataclass(frozen=True)
class Splits:
    """The features of a task. The test side is a door that is opened once, after the choice."""

    train: SplitFeatures
    valid: SplitFeatures
    test: Callable[[], SplitFeatures]


@dataclass(frozen=True)
class ProtocolInputs:
    """What a protocol is given.

    Attributes:
        task, answer: the question and its kind.
        encoder: who is asked, in evaluation mode, on the device; only what copies it may train it.
        clips: the clips of each side that can be heard.
        sides: features of these clips, extracted when first asked for: a row a window, or a frame where the answer
            asks for frames.
        frame_sides: features of these clips, a row a frame, whatever the answer.
        seeds: of the draws; each is a whole run of the rules.
        device: where encoder and probes run.
        settings: what the protocol lets a person set, or none where there is nothing.
    """

    task: Task
    answer: TaskType
    encoder: Encoder
    clips: Mapping[str, Sequence[Clip]]
    sides: Callable[[], Splits]
    frame_sides: Callable[[], Splits]
    seeds: tuple[int, ...]
    device: str
    settings: Any = None


@dataclass(frozen=True)
class ProtocolResult:
    """What a protocol found.

    Attributes:
        tried: how many probes were trained, over all seeds.
        grid: those that reached a finite validation score.
        chosen: for each seed, which of them validation chose.
        truths: one a test clip.
        answers: for each seed one a test clip.
        seconds: wall time by phase.
        read: (another test side) → for each seed one answer a clip by the chosen probe; none where it cannot be asked.
        frames: whether `read` wants a row a frame, whatever the answer.
    """

    tried: int
    grid: tuple[GridPoint, ...]
    chosen: tuple[dict[str, Any], ...]
    truths: Sequence[Any]
    answers: Sequence[Sequence[Any]]
    seconds: dict[str, float] = field(default_factory=dict)
    read: Callable[[SplitFeatures], list[list[Any]]] | None = None
    frames: bool = False


@dataclass(frozen=True)
class Protocol:
    """A set of rules.

    Attributes:
        name: as on the shelf.
        version: raised whenever a score could change.
        run: inputs → outcome.
        settings: the kind of settings that a person may change; none where there is nothing to set.
        deforms: whether the chosen probe can be asked about spoilt sound (`Outcome.read`).
    """

    name: str
    version: int
    run: Callable[[ProtocolInputs], ProtocolResult]
    settings: type[Settings] | None = None
    deforms: bool = True
