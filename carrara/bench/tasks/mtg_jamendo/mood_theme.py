"""MTG-Jamendo mood and theme: which of 56 tags a whole track has, by ROC-AUC and average precision.

MARBLE's row (benchmark.md 1.3): split-0, 9,949 / 3,802 / 4,231 tracks, no artist on two sides; macro means over the
tags. The texts say 59 tags; the official split-0 drops three (benchmark.md, section 0, 4). A track is heard in windows
of 30 s, a rest under a second is dropped, and the mean of the windows' embeddings goes to the probe, as the thesis
says; MARBLE's code trains on every window for itself and averages their logits at evaluation (section 0, 5). The order
of the tags is that of their first appearance in the three lists, as in MARBLE's code. The texts give the collection
nearly 2,000 hours; the tracks of the four rows last 3,764 (section 0, 17).
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
