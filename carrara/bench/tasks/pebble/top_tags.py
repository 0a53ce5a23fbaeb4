"""Pebble top tags: genre, instrument and mood tags at once, by ROC-AUC and average precision.

The counterpart of MTG-Jamendo's Top50 in MARBLE [notes/benchmark §1.3], which draws on the same three kinds.
"""

from carrara.core.task import Task
from carrara.data._pebble.labels import GENRES, INSTRUMENTS, MOODS

TASK = Task(
    version=1,
    dataset="pebble",
    split_scheme="songs",
    task_type="multilabel",
    label="tags",
    labels=(*GENRES, *INSTRUMENTS, *MOODS),
    metrics=("roc_auc", "average_precision"),
    monitor="roc_auc",
    category="high-level",
    plateau_patience=3,
    stop_patience=10,
)
