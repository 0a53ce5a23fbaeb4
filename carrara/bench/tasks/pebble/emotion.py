"""Pebble emotion: a song's valence and arousal, by R² of each.

The counterpart of EmoMusic in MARBLE [notes/benchmark §1.6]. The two numbers are the composer's input, not listeners'
ratings.
"""

from carrara.core.task import Task

TASK = Task(
    version=1,
    dataset="pebble",
    split_scheme="songs",
    task_type="regression",
    label="emotion",
    labels=("valence", "arousal"),
    metrics=("r2_valence", "r2_arousal"),
    monitor="r2",
    category="high-level",
)
