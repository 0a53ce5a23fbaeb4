"""Structure: where the sections of a recording begin, and which they are (verse, chorus, …), frame by frame.

A clip's label is a list of [start, end, section] in seconds; the task's labels are the sections. A probe's first output
is the log odds of a boundary, the others are the sections'. In training the frames within 0.5 s of a boundary inside
the recording are positive; the loss is binary cross-entropy plus the cross-entropy of sections (sections that the task
does not list do not count). Decoding takes the maxima of the boundary probability, averaged over 0.5 s, that are at
least 2 s apart and above twice the fraction of positive frames in training (at most 0.5); a segment's section is the
best by the mean log probability of its frames.

Metrics (`carrara/metrics/structure.py`): `boundary_f_500ms`, `boundary_f_3s`, the same `_trimmed` of the first and
last boundary, `segment_pairwise_f`: means over tracks; and `segment_label_accuracy`, over the seconds of all tracks.
Intervals resample tracks.

Letters: P probes, B frames of a batch, F frames of a clip, K outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.ndimage import uniform_filter1d
from scipy.signal import find_peaks
from torch import Tensor
from torch.nn import functional as F

from carrara.bench.task_types._base import Frames, ProbeTaskType, longest_value, ratios, requested_metrics
from carrara.bench.task_types._segments import frame_cross_entropy, frame_values, read_segments
from carrara.core.clip import Clip
from carrara.core.errors import DataError
from carrara.core.task import Task
from carrara.metrics.structure import boundary_f, label_seconds, segment_pairwise_f

POSITIVE_SECONDS, SMOOTHING_SECONDS, SHORTEST_SECONDS = 0.5, 0.5, 2.0
_BOUNDARIES = {
    "boundary_f_500ms": (0.5, False),
    "boundary_f_3s": (3.0, False),
    "boundary_f_500ms_trimmed": (0.5, True),
    "boundary_f_3s_trimmed": (3.0, True),
}


class _Structure(ProbeTaskType):
    frame_level = True
    unit = "track"

    def metric_names(self, task: Task) -> tuple[str, ...]:
        return *_BOUNDARIES, "segment_pairwise_f", "segment_label_accuracy"

    def outputs(self, task: Task) -> int:
        return 1 + len(task.labels)

    def truths(self, task: Task, clips: Sequence[Clip]) -> list[list[list[Any]]]:
        truths = [read_segments(task, clip) for clip in clips]
        for clip, segments in zip(clips, truths):
            if not segments:
                raise DataError(f"clip {clip.id!r}: its {task.label} have no segment")
        return truths

    def fit(self, task: Task, truths: Sequence[Any]) -> float:
        """Return the probability of a boundary from which on a maximum is one."""
        positive = sum(2 * POSITIVE_SECONDS * (len(segments) - 1) for segments in truths)
        seconds = sum(segments[-1][1] - segments[0][0] for segments in truths)
        return min(0.5, 2 * positive / seconds)

    def targets(self, task: Task, state: float, truths: Sequence[Any], frames: Frames | None) -> list[np.ndarray]:
        """Return for each clip 1 near boundaries, else 0, and the index of the section, -1 for others, `[F, 2]`."""
        assert frames is not None, "frame-level tasks come with frames"
        index = {label: number for number, label in enumerate(task.labels)}
        targets = []
        for segments, count in zip(truths, frames.counts_U):
            time_F = (np.arange(count) + 0.5) / frames.rate
            target_F2 = np.zeros((count, 2), dtype=np.float32)
            for start, _, _ in segments[1:]:
                target_F2[np.abs(time_F - start) <= POSITIVE_SECONDS, 0] = 1
            numbered = [[start, end, index.get(str(label))] for start, end, label in segments]
            target_F2[:, 1] = [-1 if value is None else value for value in frame_values(numbered, time_F)]
            targets.append(target_F2)
        return targets

    def loss(self, logits_PBK: Tensor, targets_B2: Tensor) -> Tensor:
        known_B = ~targets_B2[:, 0].isnan()
        target_PB = targets_B2[:, 0].nan_to_num().expand(len(logits_PBK), -1)
        error_PB = F.binary_cross_entropy_with_logits(logits_PBK[..., 0], target_PB, reduction="none")
        boundary_P = (error_PB * known_B).sum(1) / known_B.sum().clamp(min=1)
        section_B = targets_B2[:, 1].masked_fill(targets_B2[:, 1] < 0, float("nan"))
        return boundary_P + frame_cross_entropy(logits_PBK[..., 1:], section_B)

    def decode(self, task: Task, state: float, logits: Sequence[Tensor], frames: Frames | None) -> list[list[Any]]:
        assert frames is not None, "frame-level tasks come with frames"
        rate = frames.rate
        predictions: list[list[Any]] = []
        for logits_PFK in logits:
            probability_PF = logits_PFK[..., 0].double().sigmoid().cpu().numpy()
            section_PFK = logits_PFK[..., 1:].double().log_softmax(-1).cpu().numpy()
            smooth_PF = uniform_filter1d(probability_PF, max(1, round(SMOOTHING_SECONDS * rate)), axis=1)
            predictions.append([])
            for smooth_F, section_FK in zip(smooth_PF, section_PFK):
                shortest = max(1, round(SHORTEST_SECONDS * rate))
                peaks = find_peaks(smooth_F, height=state, distance=shortest)[0].tolist()
                inside = [peak for peak in peaks if shortest / 2 <= peak <= len(smooth_F) - shortest / 2]
                edges = [0, *inside, len(smooth_F)]
                predictions[-1].append(
                    [
                        [low / rate, high / rate, task.labels[int(section_FK[low:high].mean(0).argmax())]]
                        for low, high in pairwise(edges)
                    ]
                )
        return [list(units) for units in zip(*predictions)]

    def constant(
        self, task: Task, truths: Sequence[Any], counts_U: Sequence[int], rate: float | None
    ) -> list[list[list[Any]]]:
        """Return sections of the median length, all of the longest kind among the task's labels."""
        assert rate is not None, "frame-level tasks come with frames"
        segments = [segment for track in truths for segment in track]
        length = float(np.median([end - start for start, end, _ in segments]))
        label = longest_value([segment for segment in segments if segment[2] in task.labels])
        predictions = []
        for count in counts_U:
            edges = [*np.arange(0, count / rate, length).tolist(), count / rate]
            predictions.append([[start, end, label] for start, end in pairwise(edges) if end > start])
        return predictions

    def metrics(self, task: Task, truths: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
        return ratios(self.unit_sums(task, truths, predictions))

    def unit_sums(
        self, task: Task, truths: Sequence[Any], predictions: Sequence[Any]
    ) -> dict[str, tuple[list[float], list[float]]]:
        pairs = list(zip(truths, predictions))
        sums = {}
        for name in requested_metrics(task):
            if name == "segment_label_accuracy":
                seconds = [label_seconds(truth, predicted) for truth, predicted in pairs]
                sums[name] = [right for right, _ in seconds], [known for _, known in seconds]
            elif name == "segment_pairwise_f":
                sums[name] = [segment_pairwise_f(truth, predicted) for truth, predicted in pairs], [1.0] * len(pairs)
            else:
                window, trimmed = _BOUNDARIES[name]
                values = [boundary_f(truth, predicted, window, trimmed) for truth, predicted in pairs]
                sums[name] = values, [1.0] * len(pairs)
        return sums


TASK_TYPE = _Structure()
