"""Pebble genre: which of 12 genre templates a song was written from, by accuracy.

The counterpart of GTZAN in MARBLE [notes/benchmark §1.4], with its patiences.
"""

from carrara.core.task import Task
from carrara.data._pebble.labels import GENRES

TASK = Task(
    version=1,
    dataset="pebble",
    split_scheme="songs",
    task_type="multiclass",
    label="genre",
    labels=GENRES,
    metrics=("accuracy",),
    monitor="accuracy",
    category="high-level",
    plateau_patience=6,
)
