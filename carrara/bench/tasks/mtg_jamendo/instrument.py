"""MTG-Jamendo instrument: which of 40 tags a whole track has, by ROC-AUC and average precision.

MARBLE's row (benchmark.md 1.3): split-0, 14,395 / 5,466 / 5,115 tracks, no artist on two sides; macro means over the
tags. The texts say 41 tags; the official split-0 drops one (benchmark.md, section 0, 4). A track is heard in windows of
30 s, a rest under a second is dropped, and the mean of the windows' embeddings goes to the probe, as the thesis says;
MARBLE's code trains on every window for itself and averages their logits at evaluation (section 0, 5). The order of the
tags is that of their first appearance in the three lists, as in MARBLE's code. The texts give the collection nearly
2,000 hours; the tracks of the four rows last 3,764 (section 0, 17).
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
