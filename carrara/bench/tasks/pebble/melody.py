"""Pebble melody: the pitch of a piece's tune over time, by mir_eval's raw pitch accuracy.

The tune is the part of the leading instrument, from C3 to C7. Predicted frame by frame in semitones; trained on
excerpts of 1 s with short patiences, as pebble/beats is.
"""

from carrara.core.task import Task
from carrara.data._pebble.labels import MELODY

TASK = Task(
    version=1,
    dataset="pebble",
    split_scheme="pieces",
    task_type="melody",
    label="melody",
    labels=MELODY,
    window_seconds=1.0,
    metrics=("melody_raw_pitch",),
    extra_metrics=("melody_raw_chroma", "melody_overall"),
    monitor="melody_raw_pitch",
    category="score",
    plateau_patience=2,
    stop_patience=4,
    max_epochs=12,
)
