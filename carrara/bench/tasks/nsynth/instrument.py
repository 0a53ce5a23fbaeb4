"""NSynth instrument: which of 11 instrument families plays a single note, by accuracy.

MARBLE's task [notes/benchmark §1.7]: 289,205 / 12,678 / 4,096 notes, official split, the whole 4 s at once; classes in
the order of NSynth's own family numbers. The training split shares no instrument with the others; valid and test share
their 53 (see the dataset), and synth_lead is said to have no note there.
"""

from carrara.core.task import Task
from carrara.data.nsynth import FAMILIES

TASK = Task(
    version=1,
    dataset="nsynth",
    split_scheme="official",
    task_type="multiclass",
    label="instrument_family",
    labels=FAMILIES,
    metrics=("accuracy",),
    monitor="accuracy",
    category="acoustic",
    max_epochs=50,
    plateau_patience=3,
    stop_patience=10,
)
