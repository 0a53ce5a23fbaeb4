"""Song Describer text, all captions: as `song-describer/text`, with the captions that were not validated.

The 1,106 captions are the queries, the 706 recordings are searched.
"""

from carrara.core.task import Task

TASK = Task(
    version=1,
    dataset="song-describer",
    split_scheme="full",
    task_type="text_retrieval",
    label="all_captions",
    labels=("similarity",),
    metrics=("map",),
    extra_metrics=("mrr", "hit_at_1", "hit_at_5", "hit_at_10", "r_precision", "median_rank", "with_positive"),
    monitor="map",
    category="high-level",
)
