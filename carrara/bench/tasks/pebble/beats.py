"""Pebble beats: the times of a song's beats, by F-measure within 70 ms, and within 20 ms beside it.

The counterpart of GTZAN-Rhythm in MARBLE [notes/benchmark §1.5]: predicted frame by frame, scored on whole songs.
[yuan2023thesis] says 20 ms and the code behind its numbers 70 ms [notes/benchmark §0]; both are recorded. A fifth of
the songs take part, cut into excerpts of 1 s for training (10 s in MARBLE), and patiences are short: frames are many,
and a laptop must get there.
"""

from carrara.core.task import Task

TASK = Task(
    version=2,
    dataset="pebble",
    split_scheme="beats",
    task_type="beat_tracking",
    label="beats",
    labels=("beat",),
    window_seconds=1.0,
    metrics=("beat_f_70ms",),
    extra_metrics=("beat_f_20ms",),
    monitor="beat_f_70ms",
    category="score",
    plateau_patience=2,
    stop_patience=4,
    max_epochs=8,
)
