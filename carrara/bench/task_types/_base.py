"""What every kind of answer promises: from labels to a loss, from logits to answers, from answers to scores.

Letters: P probes, B examples of a batch, F frames, K outputs, U scored units (clips).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from carrara.core.clip import Clip
from carrara.core.task import Task

if TYPE_CHECKING:
    from carrara.bench.protocols._base import ProtocolInputs, ProtocolResult

Truth = Any  # what one clip's annotators said, in the form that the metrics take
State = Any  # what a kind of answer learns from the training truths (a regression's mean and deviation), or none


@dataclass(frozen=True)
class Frames:
    """The time grid of answers given frame by frame: F of each clip, and frames a second (Hz)."""

    counts_U: Sequence[int]
    rate: float


@dataclass(frozen=True)
class TaskType:
    """One kind of answer, as plain functions.

    Attributes:
        frames: whether the probe answers every frame (events), or every window or clip (all others).
        outputs: K of a task.
        truths: (task, clips) → a truth a clip.
        fit: (task, training truths) → state.
        targets: (task, state, truths, frames or none) → what the loss wants: an array [U, …], or for answers given
            frame by frame a list of arrays [F_u, …].
        loss: (logits [P, B, K], targets [B, …]) → [P], each probe's own mean over the batch; for answers given frame
            by frame B counts frames, and frames whose target is NaN (padding) do not count.
        decode: (task, state, logits, frames or none) → for each probe a list with one answer a unit. Logits are
            [P, U, K], or for answers given frame by frame a list of U tensors [P, F_u, K]; where each window answers
            for itself (`Task.aggregate`), such a list of the windows' logits.
        metrics: (task, truths, answers) → value by name, for whichever metrics the task names in `scores`, `also` and
            `watch`; one entry a unit in truths and answers.
        unit: what one scored unit is called in a record: clip, track, note.
        run: for answers that no probe over rows can give (stems): the constrained track's own training, inputs →
            outcome; none for all others.
        scale: what the metrics are: ratios (shown in percent) or levels in dB.
    """

    frames: bool
    outputs: Callable[[Task], int]
    truths: Callable[[Task, Sequence[Clip]], list[Truth]]
    fit: Callable[[Task, Sequence[Truth]], State]
    targets: Callable[[Task, State, Sequence[Truth], Frames | None], Any]
    loss: Callable[[Tensor, Tensor], Tensor]
    decode: Callable[[Task, State, Any, Frames | None], list[list[Any]]]
    metrics: Callable[[Task, Sequence[Truth], Sequence[Any]], dict[str, float]]
    unit: str = "clip"
    run: Callable[[ProtocolInputs], ProtocolResult] | None = None
    scale: Literal["ratio", "dB"] = "ratio"
