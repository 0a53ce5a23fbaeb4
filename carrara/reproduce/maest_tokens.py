"""What to take from a MAEST, from which layer: cls, dist, average, stack of tokens (its poster's heat map).

MAP on MagnaTagATune by token and block. One network is trained a seed, and every other line is a look at it. Layers are
named as on the poster, of 12; a network of 4 gives its layer 1, 2, 3, 4 for 4, 7, 10, 12. Only the stack's row of the
heat map is printed legibly. `chosen` is the protocol's own choice of the stack's layer or their weighted sum.
"""

from carrara.reproduce._base import Claim, Line, Study, View
from carrara.reproduce._poster import ALIKE, PUBLISHED, SHRUNK, shorter

LAYERS, MIDDLE = 12, 7


def _view(tokens: str, layer: int, printed: bool = False) -> Line:
    published = f"MAEST[tokens=cda;block={layer}]" if printed else ""
    return Line(f"{tokens}-{layer}", "", published, view=View("chosen", {"tokens": tokens}, layer, LAYERS))


STUDY = Study(
    title="What to take from a MAEST: tokens and layers",
    source="maest-poster-heatmap",
    table="The poster's heat map of MAEST's tokens and blocks",
    told=f"{PUBLISHED} {SHRUNK} One network is trained a seed, from random weights, and each line looks at one layer "
    "of it; layers are numbered as in the poster's network of 12, and a smaller one gives that at the same share of "
    "its depth. `chosen` is the stack with whichever layer or weighted sum the protocol chooses.",
    lines=(
        Line("chosen", "maest-10s", shrunk=shorter(10)),
        _view("stack", 4),
        _view("stack", MIDDLE, printed=True),
        _view("stack", 10, printed=True),
        _view("stack", 12, printed=True),
        *(_view(tokens, layer) for tokens in ("cls", "dist", "average") for layer in (MIDDLE, 12)),
        Line("untrained", ""),
    ),
    claims=(
        Claim("the stack of tokens tells more than cls", f"stack-{MIDDLE}", f"cls-{MIDDLE}"),
        Claim("the stack of tokens tells more than dist", f"stack-{MIDDLE}", f"dist-{MIDDLE}"),
        Claim("the stack of tokens tells more than the patches' average", f"stack-{MIDDLE}", f"average-{MIDDLE}"),
        Claim("the middle layers tell more than the last", f"stack-{MIDDLE}", "stack-12"),
        Claim("the middle layers tell more than the first", f"stack-{MIDDLE}", "stack-4"),
    ),
    **ALIKE,
)
