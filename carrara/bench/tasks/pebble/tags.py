"""Pebble tags: all 50 tags that a listener might give a song, by ROC-AUC and average precision.

The counterpart of MagnaTagATune in MARBLE [notes/benchmark §1.2]: genre, instruments and mood together with plain words
for tempo, mode, swing and loudness.
"""

from carrara.core.task import Task
from carrara.data._pebble.labels import TAGS

TASK = Task(
    version=1,
    dataset="pebble",
    split_scheme="songs",
    task_type="multilabel",
    label="tags",
    labels=TAGS,
    metrics=("roc_auc", "average_precision"),
    monitor="roc_auc",
    category="high-level",
    plateau_patience=3,
    stop_patience=10,
)
