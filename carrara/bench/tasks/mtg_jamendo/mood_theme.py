"""MTG-Jamendo mood and theme: which of 56 tags a whole track has, by ROC-AUC and average precision.

MARBLE's task [notes/benchmark §1.3]: split-0, 9,949 / 3,802 / 4,231 tracks, no artist in two splits; macro means over
the tags. The texts say 59 tags; the official split-0 drops three [notes/benchmark §0, row 4]. A track is cut into
windows of 30 s, a rest under a second is dropped, and the probe gets the mean of the windows' embeddings, as in
[yuan2023thesis]; MARBLE's code trains on every window and averages their logits in evaluation [notes/benchmark §0, row
5]. The tags are in the order of their first appearance in the three lists, as in MARBLE's code. The texts give the
collection nearly 2,000 hours; the tracks of the four tasks last 3,764 [notes/benchmark §0, row 17].
"""

from carrara.core.task import Task

TAGS = (
    "background", "film", "melancholic", "melodic", "children", "relaxing", "documentary", "emotional", "space",
    "love", "drama", "adventure", "energetic", "heavy", "dark", "calm", "action", "dramatic", "epic", "powerful",
    "upbeat", "slow", "inspiring", "soft", "meditative", "fun", "happy", "positive", "romantic", "sad", "hopeful",
    "motivational", "deep", "uplifting", "ballad", "soundscape", "dream", "movie", "fast", "nature", "cool",
    "corporate", "travel", "funny", "sport", "commercial", "advertising", "holiday", "christmas", "sexy", "game",
    "groovy", "retro", "summer", "party", "trailer",
)  # fmt: skip

TASK = Task(
    version=1,
    dataset="mtg-jamendo",
    split_scheme="mood-theme",
    task_type="multilabel",
    label="mood-theme",
    labels=TAGS,
    window_seconds=30.0,
    aggregate="embedding",
    metrics=("roc_auc", "average_precision"),
    monitor="roc_auc",
    category="high-level",
    plateau_patience=3,
    stop_patience=10,
)
