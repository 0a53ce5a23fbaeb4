"""Chords1217: the major and minor triads of a song over time, by accuracy over frames, as in today's tables.

MARBLE v2 predicts one of 24 triads or N for each frame of excerpts of 15 s and reports frame accuracy. Here it is the
constrained protocol on excerpts of 15 s, whole songs are evaluated, and the accuracy is over frames of 100 ms whose
chord is a triad, a chord built on one, or N; mir_eval's majmin, weighted by seconds, is recorded beside it. v2 extends
the chord before over N and takes frames without an annotation for N; here N is N, and such frames do not count.
"""

from carrara.core.task import Task
from carrara.data._pebble.labels import CHORDS

TASK = Task(
    version=1,
    dataset="chords1217",
    split_scheme="marble",
    task_type="chord_recognition",
    label="chords",
    labels=CHORDS,
    window_seconds=15.0,
    metrics=("chord_frame_accuracy",),
    extra_metrics=("chord_majmin", "chord_root", "chord_sevenths"),
    monitor="chord_frame_accuracy",
    category="score",
)
