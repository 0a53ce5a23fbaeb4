"""MAEST's tokens and layers: cls, dist, the patches' average, pairs of them, and all three stacked (MAEST poster).

MAP on MagnaTagATune by token and block [maest-poster]. One network is trained for each seed, and every other row is a
layer of it. Layers are named as on the poster, of 12; a network of 4 gives its layer 1, 2, 3, 4 for 4, 7, 10, 12. Only
the stack's row of the poster's heat map is printed legibly. `chosen` is the protocol's own choice among the stack's
layers and their weighted sum.
"""

from carrara.reproduce._base import AblationRow, Hypothesis, LayerSelection, Reproduction
from carrara.reproduce._poster import CROP_NOTE, PUBLISHED_NOTE, SHARED, short_crops

NUM_LAYERS, MIDDLE = 12, 7


PAIRS = {"cls-dist": (0, 1), "cls-average": (0, 2), "dist-average": (1, 2)}


def _pair(tokens: str, layer: int) -> AblationRow:
    selection = LayerSelection("chosen", {"tokens": "stack"}, layer, NUM_LAYERS, PAIRS[tokens])
    return AblationRow(f"{tokens}-{layer}", selection=selection)


def _layer(tokens: str, layer: int, is_printed: bool = False) -> AblationRow:
    published = f"MAEST[tokens=cda;block={layer}]" if is_printed else ""
    selection = LayerSelection("chosen", {"tokens": tokens}, layer, NUM_LAYERS)
    return AblationRow(f"{tokens}-{layer}", published=published, selection=selection)


REPRODUCTION = Reproduction(
    title="MAEST's tokens and layers",
    source="maest-poster-heatmap",
    table="The poster's heat map of MAEST's tokens and blocks",
    notes=f"{PUBLISHED_NOTE} {CROP_NOTE} One network is trained for each seed, from random weights, and each row is a "
    "layer of it; layers are numbered as in the poster's network of 12, and a smaller one gives the layer at the same "
    "fraction of its depth. `chosen` is the stack with whichever layer or weighted sum the protocol chooses.",
    rows=(
        AblationRow("chosen", "maest-10s", small_changes=short_crops(10)),
        _layer("stack", 4),
        _layer("stack", MIDDLE, is_printed=True),
        _layer("stack", 10, is_printed=True),
        _layer("stack", 12, is_printed=True),
        *(_layer(tokens, layer) for tokens in ("cls", "dist", "average") for layer in (4, MIDDLE, 10, 12)),
        *(_pair(tokens, layer) for tokens in PAIRS for layer in (4, MIDDLE, 10, 12)),
        AblationRow("untrained"),
    ),
    hypotheses=(
        Hypothesis("the stack of tokens is better than cls", f"stack-{MIDDLE}", f"cls-{MIDDLE}"),
        Hypothesis("the stack of tokens is better than dist", f"stack-{MIDDLE}", f"dist-{MIDDLE}"),
        Hypothesis("the stack of tokens is better than the patches' average", f"stack-{MIDDLE}", f"average-{MIDDLE}"),
        Hypothesis("the stack of tokens is better than cls and dist", f"stack-{MIDDLE}", f"cls-dist-{MIDDLE}"),
        Hypothesis(
            "the stack of tokens is better than cls and the average", f"stack-{MIDDLE}", f"cls-average-{MIDDLE}"
        ),
        Hypothesis(
            "the stack of tokens is better than dist and the average", f"stack-{MIDDLE}", f"dist-average-{MIDDLE}"
        ),
        Hypothesis("the middle layers are better than the last", f"stack-{MIDDLE}", "stack-12"),
        Hypothesis("the middle layers are better than the first", f"stack-{MIDDLE}", "stack-4"),
    ),
    **SHARED,
)
