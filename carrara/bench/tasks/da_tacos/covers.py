"""Da-TACOS covers: find the other performances of a work, by mean average precision; nothing is trained.

13,000 performances of 1,000 works each search the 15,000 of the benchmark subset, as published systems do; 2,000 of
these have no version and are no queries. The layer is chosen on works of the cover analysis subset.
"""

from carrara.core.task import Task

TASK = Task(
    version=1,
    dataset="da-tacos",
    split_scheme="benchmark",
    task_type="retrieval",
    label="song",
    labels=("similarity",),
    window_seconds=30.0,
    metrics=("map",),
    extra_metrics=("mrr", "hit_at_1", "hit_at_10", "r_precision", "with_positive"),
    monitor="map",
    category="high-level",
)
