"""MTG-Jamendo genre: which of 87 tags a whole track has, by ROC-AUC and average precision.

MARBLE's task [notes/benchmark §1.3]: split-0, 32,572 / 11,043 / 11,479 tracks, no artist in two splits; macro means
over the tags. The texts say 95 tags; the official split-0 drops eight of them [notes/benchmark §0, row 4]. A track is
cut into windows of 30 s, a rest under a second is dropped, and the probe gets the mean of the windows' embeddings, as
in [yuan2023thesis]; MARBLE's code trains on every window and averages their logits in evaluation [notes/benchmark §0,
row 5]. The tags are in the order of their first appearance in the three lists, as in MARBLE's code. The texts give the
collection nearly 2,000 hours; the tracks of the four tasks last 3,764 [notes/benchmark §0, row 17].
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
    metrics=("roc_auc", "average_precision"),
    monitor="roc_auc",
    category="high-level",
    plateau_patience=3,
    stop_patience=10,
)
