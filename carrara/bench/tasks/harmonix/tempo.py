"""Harmonix tempo: beats per minute, by accuracy within 4 %, and with octave errors forgiven beside it.

The truth is the BPM of the set's table.
"""

from carrara.core.task import Task

TASK = Task(
    version=1,
    dataset="harmonix",
    split_scheme="songs",
    task_type="tempo",
    label="tempo",
    labels=("tempo",),
    window_seconds=10.0,
    metrics=("tempo_accuracy1",),
    extra_metrics=("tempo_accuracy2",),
    monitor="tempo_accuracy1",
    category="score",
)
