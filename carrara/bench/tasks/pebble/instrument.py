"""Pebble instrument: which of NSynth's 11 families a single note's preset belongs to, by accuracy.

The counterpart of NSynth's instrument task in MARBLE [notes/benchmark §1.7]; no preset is in two splits.
"""

from carrara.core.task import Task
from carrara.data._pebble.labels import FAMILIES

TASK = Task(
    version=1,
    dataset="pebble",
    split_scheme="notes",
    task_type="multiclass",
    label="family",
    labels=FAMILIES,
    metrics=("accuracy",),
    monitor="accuracy",
    category="acoustic",
    max_epochs=50,
    plateau_patience=3,
    stop_patience=10,
)
