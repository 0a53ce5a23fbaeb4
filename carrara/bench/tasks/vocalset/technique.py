"""VocalSet technique: which of 10 vocal techniques a window of three seconds holds, by accuracy over windows.

MARBLE's row (benchmark.md 1.8): belt, breathy, inhaled, lip_trill, spoken, straight, trill, trillo, vibrato and
vocal_fry by 9 / 6 / 5 singers; the other seven techniques take no part. Windows are 132,000 samples at 44.1 kHz,
2.9932 s, what is left at the end is dropped, and each window counts once, so long recordings weigh more (asked about in
MARBLE#17); `accuracy_recordings` stands beside it.

Not as MARBLE: its code fixes the test singers only and parts train and valid by chance within singers, so that the
same ones are on both sides (section 0, 8), and its lists were never published (MARBLE#16); here no singer is on two
sides, as the thesis says (see the dataset). MARBLE trims silence from the front of a recording by a voice detector and
scales each window to mean 0 and deviation 1; here neither is done. A recording shorter than a window is one window of
its own length; MARBLE drops it. So scores are near MARBLE's, not the same thing.
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
