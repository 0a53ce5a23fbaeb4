"""Pebble emotion: a song's valence and arousal, by R² of each.

The counterpart of EmoMusic in MARBLE (benchmark.md 1.6). The two numbers are what the composer was told, not what
listeners felt.
"""

from carrara.core.task import Task

TASK = Task(
    version=1,
    dataset="pebble",
    split="songs",
    answer="numbers",
    label="emotion",
    labels=("valence", "arousal"),
    scores=("r2_valence", "r2_arousal"),
    monitor="r2",
    level="high-level",
    plateau_patience=5,
    stop_patience=20,
)
