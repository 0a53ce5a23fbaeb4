"""Music2Vec's crops, target layers, masks and steps (thesis, table 4.3).

data2vec on 1,000 h of music, mean of nine tasks [yuan2023thesis table 4.3]. Smaller scales shrink crops, batches,
layers and steps in proportion; a step has the same seconds of audio in every row. `music2vec-poster` has the lines that
only the poster prints; with the same output folder it trains none of these again.
"""

from carrara.reproduce._base import AblationRow, Hypothesis, Reproduction

REPRODUCTION = Reproduction(
    title="Music2Vec's crops, target layers, masks and steps",
    source="thesis-T4.3",
    table="The thesis's table 4.3",
    column="ALL9",
    rows=(
        AblationRow("vanilla", "music2vec", "Music2Vec[vanilla]"),
        AblationRow("crop5s", "music2vec-crop5s", "Music2Vec[crop5s]"),
        AblationRow("target12", "music2vec-target12", "Music2Vec[target=12]"),
        AblationRow("span5", "music2vec-span5", "Music2Vec[span=5]"),
        AblationRow("span15", "music2vec-span15", "Music2Vec[span=15]"),
        AblationRow("prob50", "music2vec-prob50", "Music2Vec[prob=50]"),
        AblationRow("prob80", "music2vec-prob80", "Music2Vec[prob=80]"),
        AblationRow("steps-twice", "music2vec", "Music2Vec[step=800k]", steps_factor=2.0),
        AblationRow("untrained"),
    ),
    hypotheses=(
        Hypothesis("short crops are better than long ones", "crop5s", "vanilla"),
        Hypothesis("all layers as target are better than the top two thirds", "target12", "vanilla"),
        Hypothesis("masks of 10 frames are better than masks of 5", "vanilla", "span5"),
        Hypothesis("masks of 10 frames are better than masks of 15", "vanilla", "span15"),
        Hypothesis("masks at .65 are better than masks at .5", "vanilla", "prob50"),
        Hypothesis("masks at .65 are better than masks at .8", "vanilla", "prob80"),
        Hypothesis("twice the steps are worse", "vanilla", "steps-twice"),
    ),
)
