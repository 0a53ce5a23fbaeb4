"""Pebble pitch: the MIDI number of a single note, by accuracy.

The counterpart of NSynth's pitch task in MARBLE [notes/benchmark §1.7], over the pitches that Pebble plays; no preset
is in two splits.
"""

from carrara.core.task import Task
from carrara.data._pebble.labels import PITCHES

TASK = Task(
    version=1,
    dataset="pebble",
    split_scheme="notes",
    task_type="multiclass",
    label="pitch",
    labels=tuple(str(pitch) for pitch in PITCHES),
    metrics=("accuracy",),
    monitor="accuracy",
    category="score",
    max_epochs=50,
    plateau_patience=3,
    stop_patience=10,
)
