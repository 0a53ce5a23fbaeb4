"""Pebble interval: which of twelve intervals two notes form.

One after the other, upwards or downwards, or together; from any tonic and on any of twelve instruments, whose presets
are others in test where there are three.
"""

from carrara.core.task import Task
from carrara.data._pebble.labels import INTERVALS

TASK = Task(
    version=1,
    dataset="pebble",
    split_scheme="intervals",
    task_type="multiclass",
    label="interval",
    labels=INTERVALS,
    metrics=("accuracy",),
    monitor="accuracy",
    category="score",
)
