"""VocalSet technique: which of 10 vocal techniques a window of three seconds holds, by accuracy over windows.

MARBLE's task [notes/benchmark §1.8]: belt, breathy, inhaled, lip_trill, spoken, straight, trill, trillo, vibrato and
vocal_fry by 9 / 6 / 5 singers; the other seven techniques take no part. Windows, scoring and what differs from MARBLE's
preparation as in `vocalset/singer`.

MARBLE's code fixes the test singers only and splits train and valid at random within singers, so that the same ones are
in both [notes/benchmark §0, row 8]; here no singer is in two splits, as in [yuan2023thesis] (see the dataset). So
scores are near MARBLE's, not equal.
"""

from carrara.core.task import Task
from carrara.data.vocalset import TECHNIQUES

TASK = Task(
    version=1,
    dataset="vocalset",
    split_scheme="technique",
    task_type="multiclass",
    label="technique",
    labels=TECHNIQUES,
    window_seconds=132000 / 44100,
    partial_window="drop",
    aggregate="window",
    metrics=("accuracy_windows",),
    extra_metrics=("accuracy_recordings",),
    monitor="accuracy_windows",
    category="performance",
    stop_patience=10,
)
