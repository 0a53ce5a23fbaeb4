"""MSD tags, cleaned: 50 tags of the division by artist (CALS), by ROC-AUC and average precision; MSDc.

163,504 / 34,730 / 34,913 songs, no artist in two splits; tags of the same meaning are one.
"""

from carrara.core.task import Task
from carrara.data.msd import CALS_TAGS

TASK = Task(
    version=1,
    dataset="msd",
    split_scheme="cals",
    task_type="multilabel",
    label="cals_tags",
    labels=CALS_TAGS,
    window_seconds=30.0,
    metrics=("roc_auc", "average_precision"),
    monitor="roc_auc",
    category="high-level",
    plateau_patience=3,
    stop_patience=10,
)
