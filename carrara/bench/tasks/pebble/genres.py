"""Pebble genre tags: the genres a song draws on, one or two, by ROC-AUC and average precision.

The counterpart of MTG-Jamendo's genre task in MARBLE [notes/benchmark §1.3].
"""

from carrara.core.task import Task
from carrara.data._pebble.labels import GENRES

TASK = Task(
    version=1,
    dataset="pebble",
    split_scheme="songs",
    task_type="multilabel",
    label="genres",
    labels=GENRES,
    metrics=("roc_auc", "average_precision"),
    monitor="roc_auc",
    category="high-level",
    plateau_patience=3,
    stop_patience=10,
)
