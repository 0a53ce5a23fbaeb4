"""MTG-Jamendo top-50: which of 50 tags a whole track has, by ROC-AUC and average precision.

MARBLE's row (benchmark.md 1.3): split-0, 32,136 / 10,888 / 11,356 tracks, no artist on two sides; macro means over the
tags. Its 50 tags are of all three kinds (benchmark.md, section 0, 4). A track is heard in windows of 30 s, a rest under
a second is dropped, and the mean of the windows' embeddings goes to the probe, as the thesis says; MARBLE's code trains
on every window for itself and averages their logits at evaluation (section 0, 5). The order of the tags is that of
their first appearance in the three lists, as in MARBLE's code. The texts give the collection nearly 2,000 hours; the
tracks of the four rows last 3,764 (section 0, 17).
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
    aggregate="embedding",
    metrics=("roc_auc", "average_precision"),
    monitor="roc_auc",
    category="high-level",
    plateau_patience=3,
    stop_patience=10,
)
