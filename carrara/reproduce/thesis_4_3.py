"""Crops, masks, layers, steps: what Music2Vec depends on (thesis, table 4.3).

data2vec on 1,000 h of music, mean of nine tasks. Smaller scales shrink crops, batches, layers and steps in proportion.
"""

from carrara.reproduce._base import Claim, Line, Study

STUDY = Study(
    title="Music2Vec: crops, masks, layers, steps",
    source="thesis-T4.3",
    table="The thesis's table 4.3",
    column="ALL9",
    lines=(
        Line("vanilla", "music2vec", "Music2Vec[vanilla]"),
        Line("crop5s", "music2vec-crop5s", "Music2Vec[crop5s]"),
        Line("target12", "music2vec-target12", "Music2Vec[target=12]"),
        Line("span5", "music2vec-span5", "Music2Vec[span=5]"),
        Line("span15", "music2vec-span15", "Music2Vec[span=15]"),
        Line("prob50", "music2vec-prob50", "Music2Vec[prob=50]"),
        Line("prob80", "music2vec-prob80", "Music2Vec[prob=80]"),
        Line("untrained", ""),
    ),
    claims=(
        Claim("short crops are better than long ones", "crop5s", "vanilla"),
        Claim("all layers teach more than the top two thirds", "target12", "vanilla"),
        Claim("spans of 10 are better than spans of 5", "vanilla", "span5"),
    ),
)
