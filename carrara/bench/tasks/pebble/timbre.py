"""Pebble timbre: which of 12 instruments plays an interval or a chord, by accuracy.

The second version of `pebble/instrument`. There a class is a family of unlike presets, two of which are left for test,
and single notes of them tell hand-crafted features little more than a random network; of recorded notes both differ
widely. Here an instrument has two to four presets that are alike, some of them in training and test and some in test
alone, and each clip has several pitches, so that timbre decides and pitch does not.
"""

from carrara.core.task import Task
from carrara.data._pebble.labels import INSTRUMENTS_OF_THEORY

TASK = Task(
    version=1,
    dataset="pebble",
    split_scheme="timbre",
    task_type="multiclass",
    label="instrument",
    labels=INSTRUMENTS_OF_THEORY,
    metrics=("accuracy",),
    monitor="accuracy",
    category="acoustic",
    max_epochs=50,
    plateau_patience=3,
    stop_patience=10,
)
