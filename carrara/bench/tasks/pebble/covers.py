"""Pebble covers: find the other versions of a song, by mean average precision; nothing is trained.

The counterpart of SHS100K, Covers80 and Da-TACOS. Four versions have the same tune and chords in other keys, tempi,
genres and instruments. Validation chooses the layer; songs of validation and test are different.
"""

from carrara.core.task import Task

TASK = Task(
    version=1,
    dataset="pebble",
    split_scheme="covers",
    task_type="retrieval",
    label="song",
    labels=("similarity",),
    metrics=("map",),
    extra_metrics=("mrr", "hit_at_1", "hit_at_10", "r_precision", "with_positive"),
    monitor="map",
    category="high-level",
)
