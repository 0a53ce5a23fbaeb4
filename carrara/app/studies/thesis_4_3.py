"""Crops, masks, layers, steps: what Music2Vec depends on (thesis, table 4.3).

data2vec on 1,000 h of music, mean of nine tasks. At a small scale crops are shorter in the same proportions: vanilla is
six times as long as the short crop.
"""

from carrara.app.studies._base import Claim, Line, Study

LONG, SHORT = {"crop_seconds": 7.68, "batch": 2}, {"crop_seconds": 1.28, "batch": 12}

STUDY = Study(
    title="Music2Vec: crops, masks, layers, steps",
    source="thesis-T4.3",
    average="ALL9",
    lines=(
        Line("vanilla", "music2vec", "Music2Vec[vanilla]", LONG),
        Line("crop5s", "music2vec-crop5s", "Music2Vec[crop5s]", SHORT),
        Line("target12", "music2vec-target12", "Music2Vec[target=12]", {**LONG, "targets.teacher.top": 4}),
        Line("span5", "music2vec-span5", "Music2Vec[span=5]", LONG),
        Line("span15", "music2vec-span15", "Music2Vec[span=15]", LONG),
        Line("prob50", "music2vec-prob50", "Music2Vec[prob=50]", {**LONG, "masking.probability": 0.5}),
        Line("prob80", "music2vec-prob80", "Music2Vec[prob=80]", {**LONG, "masking.probability": 0.8}),
        Line("untrained", ""),
    ),
    claims=(
        Claim("short crops are better than long ones", "crop5s", "vanilla"),
        Claim("all layers teach more than the top two thirds", "target12", "vanilla"),
        Claim("spans of 10 are better than spans of 5", "vanilla", "span5"),
    ),
)
