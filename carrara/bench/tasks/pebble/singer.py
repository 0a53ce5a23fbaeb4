"""Pebble singer: which of 12 formant voices sings, by accuracy.

The counterpart of VocalSet's singer task in MARBLE [notes/benchmark §1.8]. Every singer is in all splits; no phrase is.
"""

from carrara.core.task import Task
from carrara.data._pebble.labels import SINGERS

TASK = Task(
    version=1,
    dataset="pebble",
    split_scheme="singer",
    task_type="multiclass",
    label="singer",
    labels=SINGERS,
    metrics=("accuracy",),
    monitor="accuracy",
    category="acoustic",
)
