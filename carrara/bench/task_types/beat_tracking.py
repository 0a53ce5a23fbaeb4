"""Beat tracking: the times of a recording's beats, or of its downbeats, predicted frame by frame.

The probe gives each frame of the encoder the log odds of a beat; the loss is binary cross-entropy; the bar-pointer
model (`carrara/bench/beat_decoder.py`) turns the log odds of a clip into times. A truth is the annotators' own times,
never rounded to frames. In training a beat is frame round(rate · t) and one neighbour on either side, as in MARBLE's
first code [notes/benchmark §1.5]; a beat beyond the last frame has none. A task has labels = ["beat"], or ["downbeat"],
which the decoder takes as bars of three or four beats, 13.75 to 71.7 a minute.

Metrics: `beat_f_70ms` and `beat_f_20ms` (mean of the tracks' F-measures), `beat_f_70ms_pooled`, `beat_f_20ms_pooled`
and `beat_f_70ms_trimmed`; see `carrara/metrics/beats.py`.

Letters: P probes, B frames of a batch, F frames of a clip, K outputs (1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from carrara.bench.beat_decoder import BEAT, DOWNBEAT, Pulse, beat_times
from carrara.bench.task_types._base import Frames, ProbeTaskType, label_of, requested_metrics
from carrara.core.clip import SPLITS, Clip
from carrara.core.errors import DataError, UsageError
from carrara.core.task import Task
from carrara.metrics.beats import beat_f_mean, beat_f_pooled, beat_f_trimmed, count_matches

PULSES: dict[tuple[str, ...], Pulse] = {("beat",): BEAT, ("downbeat",): DOWNBEAT}
_METRICS: dict[str, tuple[Callable[[Sequence[np.ndarray], Sequence[np.ndarray], float], float], float]] = {
    "beat_f_70ms": (beat_f_mean, 0.07),
    "beat_f_20ms": (beat_f_mean, 0.02),
    "beat_f_70ms_pooled": (beat_f_pooled, 0.07),
    "beat_f_20ms_pooled": (beat_f_pooled, 0.02),
    "beat_f_70ms_trimmed": (beat_f_trimmed, 0.07),
}


class _BeatTracking(ProbeTaskType):
    frame_level = True
    unit = "track"

    def metric_names(self, task: Task) -> tuple[str, ...]:
        return tuple(_METRICS)

    def truths(self, task: Task, clips: Sequence[Clip]) -> list[np.ndarray]:
        """Return the times of each clip's beats in seconds, ascending; a clip may have none.

        Raises:
            UsageError: the task's labels are not ("beat",) or ("downbeat",).
            DataError: a clip has no list of times.
        """
        if task.labels not in PULSES:
            raise UsageError(
                f'task {task.name!r}: beat tracking has labels = ["beat"] or ["downbeat"], not {list(task.labels)}'
            )
        truths = []
        for clip in clips:
            label = label_of(task, clip)
            try:
                times = np.sort(np.asarray(label, dtype=np.float64).reshape(-1))
            except (TypeError, ValueError, OverflowError):
                raise DataError(
                    f"clip {clip.id!r}: its {task.label} are {str(label)[:60]!r}, not a list of times in seconds; in "
                    f"labels.csv call the column {task.label}[] and separate times by semicolons, with decimal points"
                ) from None
            if not np.isfinite(times).all() or (times < 0).any():
                raise DataError(f"clip {clip.id!r}: one of its {task.label} is not a time in seconds from 0 on")
            truths.append(times)
        return truths

    def check_truths(self, task: Task, clips: Sequence[Clip], truths: Sequence[np.ndarray], strict: bool) -> None:
        for split in SPLITS:
            own = [times for clip, times in zip(clips, truths) if clip.split == split]
            if own and not any(map(len, own)):
                raise DataError(f"task {task.name!r}: no {split} clip has a beat; give clips whose beats are annotated")

    def targets(self, task: Task, state: None, truths: Sequence[np.ndarray], frames: Frames | None) -> list[np.ndarray]:
        """Return for each clip 1 at the frames of its beats and their neighbours, else 0, `[F, 1]`."""
        if frames is None:
            raise UsageError(f"task {task.name!r}: beat tracking needs an encoder with frames")
        targets = []
        for times, count in zip(truths, frames.counts_U):
            beat_F1 = np.zeros((count, 1), dtype=np.float32)
            indices = np.round(times * frames.rate).astype(np.int64)
            for index in indices[(indices >= 0) & (indices < count)]:
                beat_F1[max(0, index - 1) : index + 2] = 1
            targets.append(beat_F1)
        return targets

    def loss(self, logits_PBK: Tensor, targets_BK: Tensor) -> Tensor:
        known_BK = ~targets_BK.isnan()
        targets_PBK = targets_BK.nan_to_num().expand_as(logits_PBK)
        error_PBK = F.binary_cross_entropy_with_logits(logits_PBK, targets_PBK, reduction="none")
        return (error_PBK * known_BK).sum((1, 2)) / known_BK.sum().clamp(min=1)

    def decode(
        self, task: Task, state: None, logits: Sequence[Tensor], frames: Frames | None
    ) -> list[list[np.ndarray]]:
        """Return for each probe the times of every clip's beats, in seconds."""
        if frames is None:
            raise UsageError(f"task {task.name!r}: beat tracking needs an encoder with frames")
        if not logits:
            return []
        probes, units = len(logits[0]), len(logits)
        # The clips of all probes in one call: the decoder is fastest with many.
        tracks = [logits_PFK[probe, :, 0] for probe in range(probes) for logits_PFK in logits]
        times = beat_times(tracks, frames.rate, PULSES[task.labels])
        return [times[probe * units : (probe + 1) * units] for probe in range(probes)]

    def constant(
        self, task: Task, truths: Sequence[np.ndarray], counts_U: Sequence[int], rate: float | None
    ) -> list[np.ndarray]:
        """Return a steady grid: the median distance of two beats, from the median time of a first beat on."""
        period = float(np.median(np.concatenate([np.diff(times) for times in truths])))
        start = float(np.median([times[0] for times in truths if len(times)])) % period
        assert rate is not None, "frame-level tasks come with frames"
        return [np.arange(start, count / rate, period) for count in counts_U]

    def metrics(self, task: Task, truths: Sequence[np.ndarray], predictions: Sequence[np.ndarray]) -> dict[str, float]:
        requested = requested_metrics(task)
        return {name: f(truths, predictions, window) for name, (f, window) in _METRICS.items() if name in requested}

    def unit_sums(
        self, task: Task, truths: Sequence[np.ndarray], predictions: Sequence[np.ndarray]
    ) -> dict[str, tuple[list[float], list[float]]]:
        sums: dict[str, tuple[list[float], list[float]]] = {}
        for name in requested_metrics(task):
            f, window = _METRICS[name]
            if f is beat_f_pooled:
                pairs = list(zip(truths, predictions))
                matches = [2.0 * count_matches(truth, predicted, window) for truth, predicted in pairs]
                sums[name] = matches, [float(len(truth) + len(predicted)) for truth, predicted in pairs]
            else:
                sums[name] = [f([t], [p], window) for t, p in zip(truths, predictions)], [1.0] * len(truths)
        return sums


TASK_TYPE = _BeatTracking()
