"""GTZAN-Rhythm downbeats: the times at which bars begin, by F-measure within 70 ms.

MARBLE v2 predicts them beside the beats [notes/benchmark §1.5]; here they are a task, on the clips of gtzan/beats whose
files have positions in the bar, decoded as bars of three or four beats.
"""

from carrara.core.task import Task

TASK = Task(
    version=1,
    dataset="gtzan",
    split_scheme="fault-filtered-downbeats",
    task_type="beat_tracking",
    label="downbeats",
    labels=("downbeat",),
    window_seconds=10.0,
    metrics=("beat_f_70ms",),
    extra_metrics=("beat_f_20ms",),
    monitor="beat_f_70ms",
    category="score",
)
