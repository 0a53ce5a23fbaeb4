"""Covers80: find the other recording of a song, by mean average precision; nothing is trained.

The layer is chosen on 20 songs and tested on 50 others. Published scores search all 160 recordings with a given layer.
"""

from carrara.core.task import Task

TASK = Task(
    version=1,
    dataset="covers80",
    split_scheme="songs",
    task_type="retrieval",
    label="song",
    labels=("similarity",),
    window_seconds=30.0,
    metrics=("map",),
    extra_metrics=("mrr", "hit_at_1", "hit_at_10", "r_precision", "with_positive"),
    monitor="map",
    category="high-level",
)
