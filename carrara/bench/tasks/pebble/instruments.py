"""Pebble instrument tags: the instruments that play in a song, by ROC-AUC and average precision.

The counterpart of MTG-Jamendo's instrument task in MARBLE [notes/benchmark §1.3].
"""

from carrara.core.task import Task
from carrara.data._pebble.labels import INSTRUMENTS

TASK = Task(
    version=1,
    dataset="pebble",
    split_scheme="songs",
    task_type="multilabel",
    label="instruments",
    labels=INSTRUMENTS,
    metrics=("roc_auc", "average_precision"),
    monitor="roc_auc",
    category="acoustic",
    plateau_patience=3,
    stop_patience=10,
)
