"""Pebble pitch: the MIDI number of a single note, by accuracy.

The counterpart of NSynth's pitch row in MARBLE (benchmark.md 1.7), over the pitches that Pebble plays; presets do not
straddle the splits.
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
