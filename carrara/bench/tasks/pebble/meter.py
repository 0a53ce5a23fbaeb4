"""Pebble meter: whether bars have three, four, five or seven beats.

A kick and a low note on the first beat, a snare and other notes between, at beats of 0.19 to 0.225 s from any point of
a bar on, so neither tempo nor length give the metre away.
"""

from carrara.core.task import Task
from carrara.data._pebble.labels import METERS

TASK = Task(
    version=1,
    dataset="pebble",
    split_scheme="meters",
    task_type="multiclass",
    label="meter",
    labels=METERS,
    metrics=("accuracy",),
    monitor="accuracy",
    category="score",
)
