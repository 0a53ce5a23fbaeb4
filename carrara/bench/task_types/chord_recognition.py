"""Chord recognition: the chord at each time, in Harte's syntax, predicted frame by frame.

A clip's label is a list of [start, end, chord] in seconds; the task's labels are the chords that a probe can say, such
as N and the 24 major and minor triads. In training a frame has the label with the annotated root and semitones, or the
triad on which the annotated chord is built (A:min7 is A:min where the task has no sevenths); frames whose chord is none
of these (a suspended one, X) do not count. The loss is cross-entropy; the prediction is each frame's best label, equal
neighbours joined, without smoothing.

Metrics: `chord_majmin`, `chord_sevenths` and `chord_root`, mir_eval's comparisons weighted by seconds over all tracks,
and `chord_frame_accuracy`, over frames of 100 ms whose chord is one of the task's labels; see
`carrara/metrics/chords.py`. Intervals resample tracks with their seconds (ratio of sums).

Letters: P probes, B frames of a batch, F frames of a clip, K outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from torch import Tensor

from carrara.bench.task_types._base import Frames, ProbeTaskType, longest_value, ratios, requested_metrics
from carrara.bench.task_types._segments import frame_cross_entropy, index_targets, join_frames, read_segments
from carrara.core.clip import Clip
from carrara.core.errors import DataError, UsageError
from carrara.core.task import Task
from carrara.metrics.chords import chord_frames, chord_seconds, encode_chord

FRAME_ACCURACY = "chord_frame_accuracy"
TRIAD_SEMITONES = 8  # of a triad, the rest is its sevenths


class _ChordRecognition(ProbeTaskType):
    frame_level = True
    unit = "track"

    def metric_names(self, task: Task) -> tuple[str, ...]:
        return "chord_majmin", "chord_sevenths", "chord_root", FRAME_ACCURACY

    def check(self, task: Task) -> None:
        """Check the metrics, and that every label is a chord; see the base class."""
        super().check(task)
        for label in task.labels:
            try:
                encode_chord(label)
            except ValueError as problem:
                raise UsageError(f"task {task.name!r}: the label {problem}") from None

    def truths(self, task: Task, clips: Sequence[Clip]) -> list[list[list[Any]]]:
        truths = []
        for clip in clips:
            segments = read_segments(task, clip)
            for _, _, chord in segments:
                try:
                    encode_chord(str(chord))
                except ValueError as problem:
                    raise DataError(f"clip {clip.id!r}: its {task.label} have {problem}") from None
            truths.append(segments)
        return truths

    def targets(self, task: Task, state: None, truths: Sequence[Any], frames: Frames | None) -> list[np.ndarray]:
        """Return for each clip the index of each frame's label, NaN where it has none, `[F, 1]`."""
        return index_targets(truths, frames, lambda chord: label_index(task.labels, chord), gap=np.nan)

    def loss(self, logits_PBK: Tensor, targets_B1: Tensor) -> Tensor:
        return frame_cross_entropy(logits_PBK, targets_B1[:, 0])

    def decode(self, task: Task, state: None, logits: Sequence[Tensor], frames: Frames | None) -> list[list[Any]]:
        best = [logits_PFK.argmax(-1).cpu().numpy() for logits_PFK in logits]
        return join_frames(best, frames, task.labels.__getitem__)

    def constant(
        self, task: Task, truths: Sequence[Any], counts_U: Sequence[int], rate: float | None
    ) -> list[list[list[Any]]]:
        """Return the chord, of the task's labels, that sounds for the longest time."""
        assert rate is not None, "frame-level tasks come with frames"
        indexed = [(start, end, label_index(task.labels, chord)) for track in truths for start, end, chord in track]
        index = longest_value([segment for segment in indexed if segment[2] is not None])
        return [[[0.0, count / rate, task.labels[index]]] for count in counts_U]

    def metrics(self, task: Task, truths: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
        return ratios(self.unit_sums(task, truths, predictions))

    def unit_sums(
        self, task: Task, truths: Sequence[Any], predictions: Sequence[Any]
    ) -> dict[str, tuple[list[float], list[float]]]:
        sums = {}
        for name in requested_metrics(task):
            pairs = []
            for truth, predicted in zip(truths, predictions):
                if name == FRAME_ACCURACY:
                    indices = [(start, end, label_index(task.labels, chord)) for start, end, chord in truth]
                    known = [[s, e, None if index is None else task.labels[index]] for s, e, index in indices]
                    pairs.append(chord_frames(known, predicted))
                else:
                    pairs.append(chord_seconds(truth, predicted, name.removeprefix("chord_")))
            sums[name] = [part for part, _ in pairs], [whole for _, whole in pairs]
        return sums


@lru_cache(maxsize=4096)
def label_index(labels: tuple[str, ...], chord: str) -> int | None:
    """Return the index of the label for a chord: the same root and semitones, else its triad; None where neither is."""
    root, semitones = encode_chord(chord)
    known = [encode_chord(label) for label in labels]
    if (root, semitones) in known:
        return known.index((root, semitones))
    triad = (root, (*semitones[:TRIAD_SEMITONES], 0, 0, 0, 0))
    return known.index(triad) if triad in known else None


TASK_TYPE = _ChordRecognition()
