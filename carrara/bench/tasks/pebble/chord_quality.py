"""Pebble chord_quality: which of eight kinds a chord is of.

Triads and seventh chords on any root, together or note by note, on any of twelve instruments. Qualities are written as
in Harte's syntax [harte2005].
"""

from carrara.core.task import Task
from carrara.data._pebble.labels import QUALITIES

TASK = Task(
    version=1,
    dataset="pebble",
    split_scheme="qualities",
    task_type="multiclass",
    label="quality",
    labels=QUALITIES,
    metrics=("accuracy",),
    monitor="accuracy",
    category="score",
)
