"""MTG-Jamendo top-50: which of 50 tags a whole track has, by ROC-AUC and average precision.

MARBLE's task [notes/benchmark §1.3]: split-0, 32,136 / 10,888 / 11,356 tracks, no artist in two splits; macro means
over the tags. Its 50 tags are of all three kinds [notes/benchmark §0, row 4]. A track is cut into windows of 30 s, a
rest under a second is dropped, and the probe gets the mean of the windows' embeddings, as in [yuan2023thesis]; MARBLE's
code trains on every window and averages their logits in evaluation [notes/benchmark §0, row 5]. The tags are in the
order of their first appearance in the three lists, as in MARBLE's code. The texts give the collection nearly 2,000
hours; the tracks of the four tasks last 3,764 [notes/benchmark §0, row 17].
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
