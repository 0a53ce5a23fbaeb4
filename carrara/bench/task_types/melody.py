"""Melody: the pitch of the main melody at each time, predicted frame by frame in semitones.

A clip's label is a list of [start, end, frequency] in seconds and Hz, one segment for each note or each moment of a
pitch curve. The task's labels are "rest" and MIDI pitches; in training a frame has the nearest of them (pitches outside
of the range do not count), and the loss is cross-entropy. A frame's prediction is its most probable pitch, negative
where a rest is more probable; equal neighbours are joined.

Metrics: `melody_raw_pitch`, `melody_raw_chroma` and `melody_overall`: means of the tracks' own accuracies by
`mir_eval.melody` (`carrara/metrics/melody.py`), over the tracks that have a melody; intervals resample tracks.

Letters: P probes, B frames of a batch, F frames of a clip, K outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from carrara.bench.task_types._base import Frames, ProbeTaskType, longest_value, ratios, requested_metrics
from carrara.bench.task_types._segments import frame_cross_entropy, index_targets, join_frames, read_segments
from carrara.core.clip import Clip
from carrara.core.errors import DataError, UsageError
from carrara.core.task import Task
from carrara.metrics.melody import melody_accuracies

REST = "rest"
A4_HZ, A4_PITCH = 440.0, 69


class _Melody(ProbeTaskType):
    frame_level = True
    unit = "track"

    def metric_names(self, task: Task) -> tuple[str, ...]:
        return "melody_raw_pitch", "melody_raw_chroma", "melody_overall"

    def check(self, task: Task) -> None:
        """Check the metrics, and that the labels are "rest" and MIDI pitches; see the base class."""
        super().check(task)
        if task.labels[0] != REST or len(task.labels) < 2 or not all(label.isdigit() for label in task.labels[1:]):
            raise UsageError(f'task {task.name!r}: melody has labels = ["rest", "60", "61", …], MIDI pitches')

    def truths(self, task: Task, clips: Sequence[Clip]) -> list[list[list[Any]]]:
        truths = []
        for clip in clips:
            segments = read_segments(task, clip)
            for start, _, hz in segments:
                if not isinstance(hz, int | float) or not 0 < hz < np.inf:
                    raise DataError(
                        f"clip {clip.id!r}: its {task.label} at {start:g} s is {hz!r}, not a frequency in Hz"
                    )
            truths.append(segments)
        return truths

    def targets(self, task: Task, state: None, truths: Sequence[Any], frames: Frames | None) -> list[np.ndarray]:
        """Return for each clip the index of each frame's label, NaN where its pitch is out of range, `[F, 1]`."""
        pitches = {int(label): float(index) for index, label in enumerate(task.labels) if index}
        return index_targets(
            truths, frames, lambda hz: pitches.get(round(A4_PITCH + 12 * float(np.log2(hz / A4_HZ)))), gap=0
        )

    def loss(self, logits_PBK: Tensor, targets_B1: Tensor) -> Tensor:
        return frame_cross_entropy(logits_PBK, targets_B1[:, 0])

    def decode(self, task: Task, state: None, logits: Sequence[Tensor], frames: Frames | None) -> list[list[Any]]:
        hz = [A4_HZ * 2 ** ((int(label) - A4_PITCH) / 12) for label in task.labels[1:]]
        signed = []
        for logits_PFK in logits:
            pitch_PF = logits_PFK[..., 1:].argmax(-1) + 1
            is_voiced_PF = logits_PFK.argmax(-1) > 0
            signed.append(pitch_PF.where(is_voiced_PF, -pitch_PF).cpu().numpy())
        return join_frames(signed, frames, lambda index: float(np.copysign(hz[abs(index) - 1], index)))

    def constant(
        self, task: Task, truths: Sequence[Any], counts_U: Sequence[int], rate: float | None
    ) -> list[list[list[Any]]]:
        """Return the longest pitch of the melodies, negative where they rest for longer than they sound."""
        assert rate is not None, "frame-level tasks come with frames"
        segments = [segment for track in truths for segment in track]
        voiced = sum(end - start for start, end, _ in segments)
        whole = sum(track[-1][1] for track in truths if track)
        hz = float(np.copysign(longest_value(segments), 2 * voiced - whole))
        return [[[0.0, count / rate, hz]] for count in counts_U]

    def metrics(self, task: Task, truths: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
        return ratios(self.unit_sums(task, truths, predictions))

    def unit_sums(
        self, task: Task, truths: Sequence[Any], predictions: Sequence[Any]
    ) -> dict[str, tuple[list[float], list[float]]]:
        tracks = [melody_accuracies(truth, predicted) for truth, predicted in zip(truths, predictions)]
        sums = {}
        for name in requested_metrics(task):
            values = [track[name] for track in tracks]
            counted = [0.0 if np.isnan(value) else 1.0 for value in values]
            sums[name] = [value if count else 0.0 for value, count in zip(values, counted)], counted
        return sums


TASK_TYPE = _Melody()
