"""VocalSet technique: which of 10 vocal techniques a window of three seconds holds, by accuracy over windows.

MARBLE's task [notes/benchmark §1.8]: belt, breathy, inhaled, lip_trill, spoken, straight, trill, trillo, vibrato and
vocal_fry by 9 / 6 / 5 singers; the other seven techniques take no part. Windows are 132,000 samples at 44.1 kHz, 2.9932
s, the rest at the end is dropped, and each window counts once, so long recordings weigh more (discussed in MARBLE#17);
`accuracy_recordings` is recorded too.

Not as MARBLE: its code fixes the test singers only and splits train and valid at random within singers, so that the
same ones are in both [notes/benchmark §0, row 8], and its lists were never published (MARBLE#16); here no singer is in
two splits, as in [yuan2023thesis] (see the dataset). MARBLE trims silence at the start of a recording by a voice
detector and scales each window to mean 0 and std 1; here neither is done. A recording shorter than a window is one
window of its own length; MARBLE drops it. So scores are near MARBLE's, not equal.
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
    plateau_patience=5,
    stop_patience=10,
)
