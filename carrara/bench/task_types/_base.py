"""The interface of task types: from labels to truths, from truths and predictions to metrics, and what a probe needs.

Letters: P probes, B examples of a batch, F frames, K outputs, U scored units (clips).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from carrara.core.clip import SPLITS, Clip, Split
from carrara.core.errors import DataError, UsageError, did_you_mean
from carrara.core.task import Task

if TYPE_CHECKING:
    from torch import Tensor

Truth = Any  # the label of one clip in the form that the metrics take
Prediction = Any  # the prediction for one clip in the same form
State = Any  # what a task type fits to the training truths (a regression's mean and std), or None


@dataclass(frozen=True)
class Frames:
    """The frames of some clips: F of each clip, and the frame rate in Hz."""

    counts_U: Sequence[int]
    rate: float


class TaskType(ABC):
    """A kind of task: which truths it has and how predictions are scored.

    Attributes:
        frame_level: whether it needs an encoder that has frames.
        unit: what a record calls one scored unit: clip, track, note.
        scale: of the metrics: ratios (shown in percent) or levels in dB; `metric_scale` has exceptions.
        reads_features: whether the constrained protocol gives it features; source separation reads audio.
        has_text_queries: whether it needs an encoder with a text tower, whose joint space is what features are of.
        splits: those that it needs.
    """

    frame_level: bool = False
    unit: str = "clip"
    scale: Literal["ratio", "dB"] = "ratio"
    reads_features: bool = True
    has_text_queries: bool = False
    splits: tuple[Split, ...] = SPLITS

    @abstractmethod
    def truths(self, task: Task, clips: Sequence[Clip]) -> list[Truth]:
        """Return the truth of each clip.

        Raises:
            DataError: a clip lacks the label, or has one that the task does not know.
        """

    def check_truths(self, task: Task, clips: Sequence[Clip], truths: Sequence[Truth], strict: bool) -> None:
        """Check, before any feature is extracted, that there is something to learn and to score.

        Args:
            task, clips, truths: the clips of some splits, and the truth of each.
            strict: whether a class that no training clip has is an error, not a warning.

        Raises:
            DataError: a split's truths do not vary where they must.
        """
        return

    def metric_scale(self, name: str) -> Literal["ratio", "dB", "rank"]:
        """Return the scale of a metric; of ranks the lower is the better."""
        return self.scale

    @abstractmethod
    def metric_names(self, task: Task) -> tuple[str, ...]:
        """Return the metrics that a task of this kind can request."""

    def check(self, task: Task) -> None:
        """Check that this kind of task has the metrics that the task requests.

        Raises:
            UsageError: it has not, or the task's labels do not fit them.
        """
        if not task.labels:
            raise UsageError(f"task {task.name!r}: labels is empty; leave it out, or name the labels")
        known = self.metric_names(task)
        for name in requested_metrics(task):
            if name not in known:
                raise UsageError(
                    f"task {task.name!r}: {task.task_type} has no metric {name!r}.{did_you_mean(name, known)} "
                    f"It has {', '.join(known)}."
                )

    @abstractmethod
    def metrics(self, task: Task, truths: Sequence[Truth], predictions: Sequence[Prediction]) -> dict[str, float]:
        """Return by name the value of each metric that the task requests."""

    def unit_sums(
        self, task: Task, truths: Sequence[Truth], predictions: Sequence[Prediction]
    ) -> Mapping[str, tuple[Sequence[float], Sequence[float]]]:
        """Return by metric what each unit adds above and below the line, where the metric is a ratio of two sums.

        Intervals resample such a metric quickly. Empty means that they find means over units by themselves.
        """
        return {}


class ProbeTaskType(TaskType):
    """A kind of task that a probe on features can learn, with one prediction for each clip or window, or each frame.

    Where `frame_level` is set, logits, targets and predictions are frame by frame.
    """

    def outputs(self, task: Task) -> int:
        """Return K, the number of outputs of a probe."""
        return len(task.labels)

    def fit(self, task: Task, truths: Sequence[Truth]) -> State:
        """Return what `targets` and `decode` need to know of the training truths; None where they need nothing."""
        return None

    @abstractmethod
    def targets(self, task: Task, state: State, truths: Sequence[Truth], frames: Frames | None) -> Any:
        """Return what the loss takes: an array `[U, …]`, or with frames a list of arrays `[F_u, …]`."""

    @abstractmethod
    def loss(self, logits_PBK: Tensor, targets: Tensor) -> Tensor:
        """Return each probe's own mean loss over the batch, `[P]`.

        Frame by frame, B counts frames, and frames whose target is NaN (padding) do not count.
        """

    @abstractmethod
    def decode(self, task: Task, state: State, logits: Any, frames: Frames | None) -> list[list[Prediction]]:
        """Return for each probe the predictions of all units.

        Args:
            task, state: as above.
            logits: `[P, U, K]`; frame by frame, and where windows are scored themselves (`Task.aggregate`), a list of
                U tensors `[P, F_u, K]`.
            frames: of the logits; None where their rows are no frames.
        """

    def constant(
        self, task: Task, truths: Sequence[Truth], counts_U: Sequence[int], rate: float | None
    ) -> list[Prediction]:
        """Return for each clip the same prediction, the best that the training truths alone suggest.

        Args:
            task: the task.
            truths: of the training clips.
            counts_U: rows of each clip to predict: windows, or frames.
            rate: of the frames in Hz; None where rows are no frames.

        Raises:
            UsageError: this kind of task has none.
        """
        raise UsageError(f"task {task.name!r}: {task.task_type} has no constant answer; use the encoder noise")


def longest_value(segments: Sequence[Sequence[Any]]) -> Any:
    """Return the value that segments [start, end, value] have for the longest time; the first of equals."""
    seconds: dict[Any, float] = {}
    for start, end, value in segments:
        seconds[value] = seconds.get(value, 0.0) + end - start
    return max(seconds, key=seconds.__getitem__)


def requested_metrics(task: Task) -> tuple[str, ...]:
    """Return the metrics that a task names, in order: those of its score, the extra ones, the monitored one."""
    return tuple(dict.fromkeys((*task.metrics, *task.extra_metrics, task.monitor)))


def ratios(sums: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> dict[str, float]:
    """Return each metric from what the units add above and below the line; NaN where they add nothing below."""
    return {name: sum(part) / sum(whole) if sum(whole) else math.nan for name, (part, whole) in sums.items()}


def monitor_only(task: Task) -> Task:
    """Return a task that requests its monitored metric only."""
    return task.model_copy(update={"metrics": (task.monitor,), "extra_metrics": ()})


def label_of(task: Task, clip: Clip) -> Any:
    """Return the label of a clip that a task is about.

    Raises:
        DataError: the clip has none.
    """
    if clip.labels.get(task.label) is None:
        raise DataError(f"clip {clip.id!r}: it has no label {task.label!r}, which task {task.name!r} needs")
    return clip.labels[task.label]
