"""Pebble technique: which of VocalSet's 10 vocal techniques is sung, by accuracy.

The counterpart of VocalSet's technique task in MARBLE [notes/benchmark §1.8]; no singer is in two splits.
"""

from carrara.core.task import Task
from carrara.data._pebble.labels import TECHNIQUES

TASK = Task(
    version=1,
    dataset="pebble",
    split_scheme="technique",
    task_type="multiclass",
    label="technique",
    labels=TECHNIQUES,
    metrics=("accuracy",),
    monitor="accuracy",
    category="performance",
    stop_patience=10,
)
