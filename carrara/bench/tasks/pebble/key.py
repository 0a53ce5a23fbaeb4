"""Pebble key: which of the 24 major and minor keys a song is in, by mir_eval's weighted score.

The counterpart of GiantSteps in MARBLE [notes/benchmark §1.1], with its patiences. Every song is written in one key, so
the truth is the score's own. No song is in two splits.
"""

from carrara.core.task import Task
from carrara.data._pebble.labels import KEYS

TASK = Task(
    version=1,
    dataset="pebble",
    split_scheme="songs",
    task_type="multiclass",
    label="key",
    labels=KEYS,
    metrics=("key_weighted",),
    extra_metrics=("accuracy", "key_weighted_2017"),
    monitor="key_weighted",
    category="high-level",
)
