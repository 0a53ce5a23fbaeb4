"""Harmonix beats: the times of beats, by F-measure within 70 ms.

As gtzan/beats: frame by frame on excerpts of 10 s, evaluated on whole recordings.
"""

from carrara.core.task import Task

TASK = Task(
    version=1,
    dataset="harmonix",
    split_scheme="songs",
    task_type="beat_tracking",
    label="beats",
    labels=("beat",),
    window_seconds=10.0,
    metrics=("beat_f_70ms",),
    extra_metrics=("beat_f_20ms",),
    monitor="beat_f_70ms",
    category="score",
)
