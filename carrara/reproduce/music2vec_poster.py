"""Music2Vec's crops, masks, target layers, steps and convolutional features (poster, table 2).

Mean of MagnaTagATune, GTZAN genre, GiantSteps key and EmoMusic [music2vec-poster]. `vanilla` is its starting setting:
crops of 30 s, masks of 10 frames at .65, the top 8 layers, 400,000 steps. Every row is probed on the Transformer's
layers and the convolutions' output, as there; `conv` and `last` are the latter and the last layer of `vanilla` alone.
"""

from carrara.reproduce._base import AblationRow, Hypothesis, LayerSelection, Reproduction
from carrara.reproduce.thesis_4_3 import REPRODUCTION as THESIS

PUBLISHED = {"vanilla": "Music2Vec[start]"}
LAYERS = 12

_shared = {row.label: row for row in THESIS.rows}


def _row(label: str) -> AblationRow:
    row = _shared[label]
    return AblationRow(label, row.recipe, PUBLISHED.get(label, row.published), steps_factor=row.steps_factor)


REPRODUCTION = Reproduction(
    title="Music2Vec's poster",
    source="seed000-music2vec-poster-T2",
    table="The poster's table 2",
    column="ALL4",
    notes="The published column is the mean of the poster's own tasks, so only its order compares. The protocol also "
    "tries the convolutions' output, as the poster does.",
    rows=(
        _row("vanilla"),
        _row("crop5s"),
        AblationRow("crop10s", "music2vec-crop10s", "Music2Vec[crop10s]"),
        AblationRow("crop15s", "music2vec-crop15s", "Music2Vec[crop15s]"),
        *(_row(label) for label in ("span5", "span15", "prob50")),
        AblationRow("prob70", "music2vec-prob70", "Music2Vec[prob=70]"),
        *(_row(label) for label in ("prob80", "target12", "steps-twice")),
        AblationRow("conv", selection=LayerSelection("vanilla", {}, 0, LAYERS, is_cnn=True)),
        AblationRow("last", selection=LayerSelection("vanilla", {}, LAYERS, LAYERS)),
        AblationRow("untrained", untrained_of="vanilla"),
    ),
    hypotheses=(
        Hypothesis("crops of 5 s are better than crops of 10 s", "crop5s", "crop10s"),
        Hypothesis("crops of 10 s are better than crops of 15 s", "crop10s", "crop15s"),
        Hypothesis("crops of 15 s are better than crops of 30 s", "crop15s", "vanilla"),
        Hypothesis("masks of 10 frames are better than masks of 5", "vanilla", "span5"),
        Hypothesis("masks of 10 frames are better than masks of 15", "vanilla", "span15"),
        Hypothesis("masks at .65 are better than masks at .5", "vanilla", "prob50"),
        Hypothesis("masks at .65 are better than masks at .7", "vanilla", "prob70"),
        Hypothesis("masks at .65 are better than masks at .8", "vanilla", "prob80"),
        Hypothesis("all layers as target are better than the top two thirds", "target12", "vanilla"),
        Hypothesis("twice the steps are worse", "vanilla", "steps-twice"),
        Hypothesis("the convolutions' output is better than the last layer", "conv", "last"),
    ),
    probes={"layers": "transformer+cnn"},
)
