"""Pebble chords: the major and minor triads of a piece over time, by mir_eval's majmin weighted by seconds.

The counterpart of chord recognition in today's tables. Sevenths count as the triad they are built on, power and
suspended chords are not compared. Predicted frame by frame; trained on excerpts of 1 s with short patiences, as
pebble/beats is.
"""

from carrara.core.task import Task
from carrara.data._pebble.labels import CHORDS

TASK = Task(
    version=1,
    dataset="pebble",
    split_scheme="pieces",
    task_type="chord_recognition",
    label="chords",
    labels=CHORDS,
    window_seconds=1.0,
    metrics=("chord_majmin",),
    extra_metrics=("chord_frame_accuracy", "chord_root", "chord_sevenths"),
    monitor="chord_majmin",
    category="score",
    plateau_patience=2,
    stop_patience=4,
    max_epochs=12,
)
