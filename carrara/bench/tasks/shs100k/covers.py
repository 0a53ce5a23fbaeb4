"""SHS100K covers: find the other recordings of a song, by mean average precision; nothing is trained.

Of 10,547 test recordings each searches the others; the layer is chosen on the validation list.
"""

from carrara.core.task import Task

TASK = Task(
    version=1,
    dataset="shs100k",
    split_scheme="official",
    task_type="retrieval",
    label="song",
    labels=("similarity",),
    window_seconds=30.0,
    metrics=("map",),
    extra_metrics=("mrr", "hit_at_1", "hit_at_10", "r_precision", "with_positive"),
    monitor="map",
    category="high-level",
)
