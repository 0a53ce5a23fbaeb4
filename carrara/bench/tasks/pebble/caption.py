"""Pebble caption: find the piece that a caption describes, by mean average precision, with a text tower.

A caption is rendered from the score: mood, genre, key and instruments. Pieces with equal captions are each
other's positives. For encoders with a text tower only, so it is in no suite.
"""

from carrara.core.task import Task

TASK = Task(
    version=1,
    dataset="pebble",
    split_scheme="pieces",
    task_type="text_retrieval",
    label="caption",
    labels=("similarity",),
    metrics=("map",),
    extra_metrics=("mrr", "hit_at_1", "hit_at_5", "hit_at_10", "r_precision", "median_rank", "with_positive"),
    monitor="map",
    category="high-level",
)
