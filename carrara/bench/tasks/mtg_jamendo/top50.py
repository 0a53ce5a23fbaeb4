"""MTG-Jamendo top-50: which of 50 tags a whole track has, by ROC-AUC and average precision.

MARBLE's task [notes/benchmark §1.3]: split-0, 32,136 / 10,888 / 11,356 tracks. Its 50 tags are of all three kinds
[notes/benchmark §0, row 4]. All else as in `mtg-jamendo/genre`.
"""

from carrara.core.task import Task

TAGS = (
    "rock", "pop", "classical", "voice", "popfolk", "funk", "ambient", "chillout", "downtempo", "easylistening",
    "electronic", "lounge", "synthesizer", "triphop", "techno", "newage", "jazz", "metal", "piano", "alternative",
    "experimental", "soundtrack", "film", "world", "strings", "trance", "orchestral", "guitar", "hiphop",
    "instrumentalpop", "relaxing", "reggae", "emotional", "keyboard", "violin", "dance", "bass", "computer",
    "drummachine", "drums", "electricguitar", "folk", "acousticguitar", "poprock", "indie", "energetic", "happy",
    "electricpiano", "house", "atmospheric",
)  # fmt: skip

TASK = Task(
    version=1,
    dataset="mtg-jamendo",
    split_scheme="top50",
    task_type="multilabel",
    label="top50",
    labels=TAGS,
    window_seconds=30.0,
    metrics=("roc_auc", "average_precision"),
    monitor="roc_auc",
    category="high-level",
    plateau_patience=3,
    stop_patience=10,
)
