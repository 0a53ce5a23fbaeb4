"""GTZAN tempo: beats per minute, by accuracy within 4 %, and with octave errors forgiven beside it.

The truth is 60 s over the median time between the annotated beats of GTZAN-Rhythm.
"""

from carrara.core.task import Task

TASK = Task(
    version=1,
    dataset="gtzan",
    split_scheme="fault-filtered",
    task_type="tempo",
    label="beats",
    labels=("tempo",),
    window_seconds=10.0,
    metrics=("tempo_accuracy1",),
    extra_metrics=("tempo_accuracy2",),
    monitor="tempo_accuracy1",
    category="score",
)
