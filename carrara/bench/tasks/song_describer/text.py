"""Song Describer text: find the recording that a caption describes, by mean average precision, with a text tower.

The 746 validated captions are the queries, the 546 recordings that have one are searched.
"""

from carrara.core.task import Task

TASK = Task(
    version=1,
    dataset="song-describer",
    split_scheme="valid",
    task_type="text_retrieval",
    label="captions",
    labels=("similarity",),
    metrics=("map",),
    extra_metrics=("mrr", "hit_at_1", "hit_at_5", "hit_at_10", "r_precision", "median_rank", "with_positive"),
    monitor="map",
    category="high-level",
)
