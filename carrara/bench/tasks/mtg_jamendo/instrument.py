"""MTG-Jamendo instrument: which of 40 tags a whole track has, by ROC-AUC and average precision.

MARBLE's task [notes/benchmark §1.3]: split-0, 14,395 / 5,466 / 5,115 tracks. The texts say 41 tags; the official
split-0 drops one [notes/benchmark §0, row 4]. All else as in `mtg-jamendo/genre`.
"""

from carrara.core.task import Task

TAGS = (
    "voice", "synthesizer", "piano", "strings", "beat", "guitar", "cello", "keyboard", "trombone", "clarinet",
    "doublebass", "horn", "trumpet", "violin", "accordion", "bass", "computer", "drummachine", "drums",
    "electricguitar", "sampler", "acousticguitar", "harmonica", "flute", "pipeorgan", "harp", "electricpiano",
    "oboe", "saxophone", "percussion", "acousticbassguitar", "orchestra", "bongo", "brass", "viola", "rhodes",
    "organ", "classicalguitar", "bell", "pad",
)  # fmt: skip

TASK = Task(
    version=1,
    dataset="mtg-jamendo",
    split_scheme="instrument",
    task_type="multilabel",
    label="instrument",
    labels=TAGS,
    window_seconds=30.0,
    metrics=("roc_auc", "average_precision"),
    monitor="roc_auc",
    category="acoustic",
    plateau_patience=3,
    stop_patience=10,
)
