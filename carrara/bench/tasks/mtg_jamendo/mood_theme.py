"""MTG-Jamendo mood and theme: which of 56 tags a whole track has, by ROC-AUC and average precision.

MARBLE's task [notes/benchmark §1.3]: split-0, 9,949 / 3,802 / 4,231 tracks. The texts say 59 tags; the official split-0
drops three [notes/benchmark §0, row 4]. All else as in `mtg-jamendo/genre`.
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
    metrics=("roc_auc", "average_precision"),
    monitor="roc_auc",
    category="high-level",
    plateau_patience=3,
    stop_patience=10,
)
