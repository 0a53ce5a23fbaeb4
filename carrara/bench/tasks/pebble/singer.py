"""Pebble singer: which of 12 formant voices sings, by accuracy.

The counterpart of VocalSet's singer row in MARBLE (benchmark.md 1.8). Every singer is on all sides of the split; no
phrase is.
"""

from carrara.core.task import Task
from carrara.data._pebble.labels import SINGERS

TASK = Task(
    version=1,
    dataset="pebble",
    split="singer",
    answer="one-of",
    label="singer",
    labels=SINGERS,
    scores=("accuracy",),
    monitor="accuracy",
    level="acoustic",
    plateau_patience=5,
    stop_patience=20,
)
