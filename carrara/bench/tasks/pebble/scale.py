"""Pebble scale: which of eight scales is played.

The seven modes and harmonic minor, up or down an octave from any tonic, on any of twelve instruments.
"""

from carrara.core.task import Task
from carrara.data._pebble.labels import MODES

TASK = Task(
    version=1,
    dataset="pebble",
    split_scheme="scales",
    task_type="multiclass",
    label="scale",
    labels=MODES,
    metrics=("accuracy",),
    monitor="accuracy",
    category="score",
)
