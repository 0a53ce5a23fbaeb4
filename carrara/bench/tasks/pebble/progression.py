"""Pebble progression: which of eight progressions four chords form.

In any key and on any of twelve instruments, so chords have to be related to each other; Roman numerals count from the
tonic.
"""

from carrara.core.task import Task
from carrara.data._pebble.labels import PROGRESSIONS

TASK = Task(
    version=1,
    dataset="pebble",
    split_scheme="progressions",
    task_type="multiclass",
    label="progression",
    labels=PROGRESSIONS,
    metrics=("accuracy",),
    monitor="accuracy",
    category="score",
)
