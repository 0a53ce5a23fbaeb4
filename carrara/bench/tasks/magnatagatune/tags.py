"""MagnaTagATune: which of its 50 most frequent tags a clip has, by ROC-AUC and average precision.

MARBLE's task [notes/benchmark §1.2]: 18,706 / 1,825 / 5,329 clips by folder, those without any of the tags too; macro
means over the tags, average precision without interpolation. Three clips that do not decode are left out, as in
JukeMIR; MARBLE's own list has them and crashes (MARBLE#5). 56 of 230 artists are in two splits, which [yuan2023thesis]
does not say.
"""

from carrara.core.task import Task
from carrara.data.magnatagatune import TOP_50

TASK = Task(
    version=1,
    dataset="magnatagatune",
    split_scheme="official",
    task_type="multilabel",
    label="tags",
    labels=TOP_50,
    metrics=("roc_auc", "average_precision"),
    monitor="roc_auc",
    category="high-level",
    plateau_patience=3,
    stop_patience=10,
)
