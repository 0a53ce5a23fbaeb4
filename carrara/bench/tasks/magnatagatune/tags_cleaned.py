"""MagnaTagATune, cleaned: the 50 tags over the clips that have any, by ROC-AUC and average precision.

15,247 / 1,529 / 4,332 clips [notes/benchmark §1.2]: the variant of Won et al. (2020) and of [plachouras2023]. Its
scores do not compare with those of `magnatagatune/tags`, which is MARBLE's.
"""

from carrara.core.task import Task
from carrara.data.magnatagatune import TOP_50

TASK = Task(
    version=1,
    dataset="magnatagatune",
    split_scheme="cleaned",
    task_type="multilabel",
    label="tags",
    labels=TOP_50,
    metrics=("roc_auc", "average_precision"),
    monitor="roc_auc",
    category="high-level",
    plateau_patience=3,
    stop_patience=10,
)
