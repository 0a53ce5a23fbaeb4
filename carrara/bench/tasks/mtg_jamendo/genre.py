"""MTG-Jamendo genre: which of 87 tags a whole track has, by ROC-AUC and average precision.

MARBLE's row (benchmark.md 1.3): split-0, 32,572 / 11,043 / 11,479 tracks, no artist on two sides; macro means over the
tags. The texts say 95 tags; the official split-0 drops eight of them (benchmark.md, section 0, 4). A track is heard in
windows of 30 s, a rest under a second is dropped, and the mean of the windows' embeddings goes to the probe, as the
thesis says; MARBLE's code trains on every window for itself and averages their logits at evaluation (section 0, 5). The
order of the tags is that of their first appearance in the three lists, as in MARBLE's code. The texts give the
collection nearly 2,000 hours; the tracks of the four rows last 3,764 (section 0, 17).
"""

from carrara.core.task import Task

TAGS = (
    "rock", "pop", "classical", "popfolk", "disco", "funk", "rnb", "ambient", "chillout", "downtempo",
    "easylistening", "electronic", "lounge", "triphop", "breakbeat", "techno", "newage", "jazz", "metal",
    "industrial", "instrumentalrock", "minimal", "alternative", "experimental", "drumnbass", "soul", "fusion",
    "soundtrack", "electropop", "world", "ethno", "trance", "orchestral", "grunge", "chanson", "worldfusion",
    "hiphop", "groove", "instrumentalpop", "blues", "reggae", "dance", "club", "punkrock", "folk", "synthpop",
    "poprock", "choir", "symphonic", "indie", "progressive", "acidjazz", "contemporary", "newwave", "dub",
    "rocknroll", "hard", "hardrock", "house", "atmospheric", "psychedelic", "improvisation", "country",
    "electronica", "rap", "60s", "70s", "darkambient", "idm", "latin", "postrock", "bossanova", "singersongwriter",
    "darkwave", "swing", "medieval", "celtic", "eurodance", "classicrock", "dubstep", "bluesrock", "edm",
    "deephouse", "jazzfusion", "alternativerock", "80s", "90s",
)  # fmt: skip

TASK = Task(
    version=1,
    dataset="mtg-jamendo",
    split_scheme="genre",
    task_type="multilabel",
    label="genre",
    labels=TAGS,
    window_seconds=30.0,
    aggregate="embedding",
    metrics=("roc_auc", "average_precision"),
    monitor="roc_auc",
    category="high-level",
    plateau_patience=3,
    stop_patience=10,
)
