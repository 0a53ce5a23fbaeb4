"""MSD tags: Last.fm's 50 most frequent tags of the Million Song Dataset, by ROC-AUC and average precision; MSDs.

The division that most papers on tagging use: 201,680 / 11,774 / 28,435 songs, artists in several splits.
"""

from carrara.core.task import Task
from carrara.data.msd import TAGS

TASK = Task(
    version=1,
    dataset="msd",
    split_scheme="standard",
    task_type="multilabel",
    label="tags",
    labels=TAGS,
    window_seconds=30.0,
    metrics=("roc_auc", "average_precision"),
    monitor="roc_auc",
    category="high-level",
    plateau_patience=3,
    stop_patience=10,
)
