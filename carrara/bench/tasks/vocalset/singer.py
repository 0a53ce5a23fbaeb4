"""VocalSet singer: which of 20 singers sings a window of three seconds, by accuracy over windows.

MARBLE's task [notes/benchmark §1.8]: f1 to f9 and m1 to m11, all techniques, recordings split 12 : 8 : 5. Windows are
132,000 samples at 44.1 kHz, 2.9932 s, the rest at the end is dropped, and each window counts once, so long recordings
weigh more (discussed in MARBLE#17); `accuracy_recordings` is recorded too. An option of MARBLE's code keeps a rest of
more than 1 s and reports 82.4 % for it; it is not its default and not used here.

Not as MARBLE: its lists were never published (MARBLE#16), and its code groups files by their position in a folder, so
that unrelated ones go together [notes/benchmark §0, row 9]; here each recording is a group of its own (see the
dataset). MARBLE trims silence at the start of a recording by a voice detector and scales each window to mean 0 and std
1; here neither is done. A recording shorter than a window is one window of its own length; MARBLE drops it. So scores
are near MARBLE's, not equal.
"""

from carrara.core.task import Task
from carrara.data.vocalset import SINGERS

TASK = Task(
    version=1,
    dataset="vocalset",
    split_scheme="singer",
    task_type="multiclass",
    label="singer",
    labels=SINGERS,
    window_seconds=132000 / 44100,
    partial_window="drop",
    aggregate="window",
    metrics=("accuracy_windows",),
    extra_metrics=("accuracy_recordings",),
    monitor="accuracy_windows",
    category="acoustic",
)
