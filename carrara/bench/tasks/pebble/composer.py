"""Pebble composer: find other pieces by the same composer, by mean average precision; nothing is trained.

The counterpart of retrieval by artist. A composer is a genre's template with instruments, groove, bass, accompaniment,
loops and tempo chosen once; keys, tunes and moods differ. Composers of validation and test are different.
"""

from carrara.core.task import Task

TASK = Task(
    version=1,
    dataset="pebble",
    split_scheme="composers",
    task_type="retrieval",
    label="composer",
    labels=("similarity",),
    metrics=("map",),
    extra_metrics=("mrr", "hit_at_1", "hit_at_10", "r_precision", "with_positive"),
    monitor="map",
    category="high-level",
)
