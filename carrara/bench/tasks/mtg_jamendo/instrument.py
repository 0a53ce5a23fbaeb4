"""MTG-Jamendo instrument: which of 40 tags a whole track has, by ROC-AUC and average precision.

MARBLE's task [notes/benchmark §1.3]: split-0, 14,395 / 5,466 / 5,115 tracks, no artist in two splits; macro means over
the tags. The texts say 41 tags; the official split-0 drops one [notes/benchmark §0, row 4]. A track is cut into windows
of 30 s, a rest under a second is dropped, and the probe gets the mean of the windows' embeddings, as in
[yuan2023thesis]; MARBLE's code trains on every window and averages their logits in evaluation [notes/benchmark §0, row
5]. The tags are in the order of their first appearance in the three lists, as in MARBLE's code. The texts give the
collection nearly 2,000 hours; the tracks of the four tasks last 3,764 [notes/benchmark §0, row 17].
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
    aggregate="embedding",
    metrics=("roc_auc", "average_precision"),
    monitor="roc_auc",
    category="acoustic",
    plateau_patience=3,
    stop_patience=10,
)
