"""Pebble mood tags: the moods a song was written in, by ROC-AUC and average precision.

The counterpart of MTG-Jamendo's mood and theme task in MARBLE [notes/benchmark §1.3].
"""

from carrara.core.task import Task
from carrara.data._pebble.labels import MOODS

TASK = Task(
    version=1,
    dataset="pebble",
    split_scheme="songs",
    task_type="multilabel",
    label="moods",
    labels=MOODS,
    metrics=("roc_auc", "average_precision"),
    monitor="roc_auc",
    category="high-level",
    plateau_patience=3,
    stop_patience=10,
)
