"""Music4All artist: find the other recordings of an artist, by mean average precision; nothing is trained.

The division is ours, by the artist's name (`carrara/data/music4all.py`): a tenth of the artists is searched, the
layer is chosen on another tenth. Recordings of one album share its production, so a part of what is found may be the
album.
"""

from carrara.core.task import Task

TASK = Task(
    version=1,
    dataset="music4all",
    split_scheme="artist",
    task_type="retrieval",
    label="artist",
    labels=("similarity",),
    window_seconds=30.0,
    metrics=("map",),
    extra_metrics=("mrr", "hit_at_1", "hit_at_10", "r_precision", "with_positive"),
    monitor="map",
    category="high-level",
)
