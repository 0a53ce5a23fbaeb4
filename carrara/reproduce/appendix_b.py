"""Purity of genres by layer (thesis, appendix B).

The thesis draws GTZAN by layers 7 to 12 of MERT-95M [yuan2023thesis §B]: genres form clusters, and the higher layers
do not necessarily show them more. It prints no number; here it is the fraction of a song's ten nearest neighbours that
have its genre, on Pebble's songs. Layers are named as in the thesis's network of 12; a smaller one gives the layer at
the same fraction of its depth.
"""

from carrara.reproduce._base import AblationRow, Hypothesis, LayerSelection, Reproduction

NUM_LAYERS = 12


def _layer(layer: int, model_of: str = "trained") -> AblationRow:
    label = f"layer-{layer}" if model_of == "trained" else f"{model_of}-{layer}"
    return AblationRow(label, selection=LayerSelection(model_of, {}, layer, NUM_LAYERS))


REPRODUCTION = Reproduction(
    title="Purity of genres by layer",
    source="thesis-B",
    table="The thesis's figures B.1 and B.2",
    column="",
    tasks=(),
    measures="purity",
    notes="The thesis prints pictures and no numbers. `trained` and `untrained` are the last layers.",
    rows=(
        AblationRow("trained", "mert-v0-public"),
        *(_layer(layer) for layer in (3, 6, 9, 12)),
        AblationRow("untrained"),
        *(_layer(layer, "untrained") for layer in (3, 6, 9)),
    ),
    hypotheses=(
        Hypothesis("training makes songs of a genre neighbours", "trained", "untrained"),
        Hypothesis("the layer at three quarters of the depth is purer than the last", "layer-9", "layer-12"),
        Hypothesis("the layer at half of the depth is purer than the last", "layer-6", "layer-12"),
        Hypothesis("the layer at a quarter of the depth is purer than the last", "layer-3", "layer-12"),
    ),
)
