"""FMA artist, small: find the other recordings of an artist, by mean average precision; nothing is trained.

The authors' division, in which no artist is in two splits: 800 test excerpts search one another, the layer is chosen on
800. Recordings of one album share its production, so a part of what is found may be the album.
"""

from carrara.core.task import Task

TASK = Task(
    version=1,
    dataset="fma",
    split_scheme="small",
    task_type="retrieval",
    label="artist",
    labels=("similarity",),
    window_seconds=30.0,
    metrics=("map",),
    extra_metrics=("mrr", "hit_at_1", "hit_at_10", "r_precision", "with_positive"),
    monitor="map",
    category="high-level",
)
