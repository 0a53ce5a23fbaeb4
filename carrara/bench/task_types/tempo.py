"""Tempo: beats per minute of a clip, as a probability over tempi.

A probe has one output for each of 80 tempi from 30 BPM on, a 24th of an octave (2.9 %) apart, as in classification over
tempi [schreiber2018]. In training the target is a normal distribution over log tempo around the annotated one with a
standard deviation of one output; the loss is cross-entropy. The prediction is the mean log tempo of the best output and
its two neighbours, weighted by their probabilities.

Metrics: `tempo_accuracy1` and `tempo_accuracy2` (`carrara/metrics/tempo.py`), means over clips, which intervals
resample. A task has labels = ["tempo"]; a clip's label is its beats per minute, or a list of at least two beats, of
which the median distance counts.

Letters: P probes, B examples of a batch, K outputs, U scored units.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from carrara.bench.task_types._base import Frames, ProbeTaskType, label_of, requested_metrics
from carrara.core.clip import Clip
from carrara.core.errors import DataError, UsageError
from carrara.core.task import Task
from carrara.metrics.tempo import tempo_accuracy1, tempo_accuracy2

SLOWEST_BPM, STEPS_PER_OCTAVE, TEMPI = 30.0, 24, 80
_METRICS = {"tempo_accuracy1": tempo_accuracy1, "tempo_accuracy2": tempo_accuracy2}


class _Tempo(ProbeTaskType):
    def metric_names(self, task: Task) -> tuple[str, ...]:
        return tuple(_METRICS)

    def check(self, task: Task) -> None:
        """Check the metrics, and that the label is tempo and windows are averaged; see the base class."""
        super().check(task)
        if task.labels != ("tempo",):
            raise UsageError(f'task {task.name!r}: tempo has labels = ["tempo"], not {list(task.labels)}')
        if task.aggregate == "window":
            raise UsageError(f"task {task.name!r}: a clip has one tempo; set aggregate to embedding or logit")

    def outputs(self, task: Task) -> int:
        return TEMPI

    def truths(self, task: Task, clips: Sequence[Clip]) -> list[float]:
        truths = []
        for clip in clips:
            label = label_of(task, clip)
            try:
                if isinstance(label, list):
                    tempo = 60 / float(np.median(np.diff(np.sort(label)))) if len(label) > 1 else np.nan
                else:
                    tempo = float(label)
            except (TypeError, ValueError, ZeroDivisionError):
                tempo = np.nan
            if not 0 < tempo < np.inf:
                kind = "times of beats" if isinstance(label, list) else "beats per minute"
                raise DataError(f"clip {clip.id!r}: its {task.label} is {str(label)[:60]!r}, not {kind}")
            truths.append(tempo)
        return truths

    def targets(self, task: Task, state: None, truths: Sequence[float], frames: Frames | None) -> np.ndarray:
        """Return the distribution over tempi of each clip, `[U, K]`; a tempo out of range is the nearest in range."""
        step_U = STEPS_PER_OCTAVE * np.log2(np.asarray(truths) / SLOWEST_BPM)
        weight_UK = np.exp(-0.5 * (np.arange(TEMPI) - step_U.clip(0, TEMPI - 1)[:, None]) ** 2)
        return (weight_UK / weight_UK.sum(1, keepdims=True)).astype(np.float32)

    def loss(self, logits_PBK: Tensor, targets_BK: Tensor) -> Tensor:
        return -(torch.log_softmax(logits_PBK, -1) * targets_BK).sum(-1).mean(1)

    def decode(self, task: Task, state: None, logits_PUK: Tensor, frames: Frames | None) -> list[list[float]]:
        step_K = torch.arange(TEMPI, device=logits_PUK.device)
        best_PU1 = logits_PUK.argmax(-1, keepdim=True)
        near_PUK = logits_PUK.masked_fill((step_K - best_PU1).abs() > 1, -torch.inf)
        step_PU = (near_PUK.double().softmax(-1) * step_K).sum(-1)
        return (SLOWEST_BPM * 2 ** (step_PU / STEPS_PER_OCTAVE)).tolist()

    def constant(self, task: Task, truths: Sequence[float], counts_U: Sequence[int], rate: float | None) -> list[float]:
        """Return the tempo that is right for most clips by accuracy 1, the lowest of equals."""
        tempi = np.sort(np.asarray(truths, dtype=np.float64))
        right = [tempo_accuracy1(tempi, np.full(len(tempi), tempo)) for tempo in tempi]
        return [float(tempi[int(np.argmax(right))])] * len(counts_U)

    def metrics(self, task: Task, truths: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
        return {name: _METRICS[name](np.asarray(truths), np.asarray(predictions)) for name in requested_metrics(task)}


TASK_TYPE = _Tempo()
