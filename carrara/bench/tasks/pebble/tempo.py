"""Pebble tempo: the beats per minute of a song, by accuracy within 4 %, and with octave errors forgiven beside it.

The tempo is the median of the played beats. Accuracy 1 takes that tempo only, accuracy 2 its double, triple, half and
third too [gouyon2006].
"""

from carrara.core.task import Task

TASK = Task(
    version=1,
    dataset="pebble",
    split_scheme="songs",
    task_type="tempo",
    label="tempo",
    labels=("tempo",),
    metrics=("tempo_accuracy1",),
    extra_metrics=("tempo_accuracy2",),
    monitor="tempo_accuracy1",
    category="score",
)
