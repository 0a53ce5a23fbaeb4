"""Pebble downbeats: the times at which a song's bars begin, by F-measure within 70 ms.

The counterpart of downbeat tracking on GTZAN-Rhythm [notes/benchmark §1.5], on the songs of pebble/beats and
with its excerpts and patiences. The score's own bars, of three or four beats, are the truth.
"""

from carrara.core.task import Task

TASK = Task(
    version=2,
    dataset="pebble",
    split_scheme="beats",
    task_type="beat_tracking",
    label="downbeats",
    labels=("downbeat",),
    window_seconds=1.0,
    metrics=("beat_f_70ms",),
    extra_metrics=("beat_f_20ms",),
    monitor="beat_f_70ms",
    category="score",
    plateau_patience=2,
    stop_patience=4,
    max_epochs=8,
)
