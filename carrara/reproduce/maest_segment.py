"""How long to listen: MAEST over 5, 10, 20 and 30 s, beside a convolutional network (MAEST's poster, lengths).

MAP on MagnaTagATune; the poster's networks begin from PaSST's weights, these from random ones. EfficientNet-B0 is the
poster's baseline, from its table of downstream tasks: here the same tags, songs, crops as the longest, and recipe.
"""

from carrara.reproduce._base import Claim, Line, Study
from carrara.reproduce._poster import ALIKE, PUBLISHED, SHARE, SHRUNK, shorter

STUDY = Study(
    title="How long to listen: MAEST's segments, and a convolutional network",
    source="maest-poster-segment",
    table="The poster's table of MAEST's segment length",
    told=f"{PUBLISHED} {SHRUNK} The poster's MAEST begins from PaSST's weights, all lines here from random ones. "
    "`effnet` is EfficientNet taught by the same recipe, on crops as long as those of `30s`; its published figure is "
    "from the poster's table of downstream tasks.",
    lines=(
        Line("30s", "maest-30s", "MAEST-30s-swa", shrunk=shorter(30)),
        Line("20s", "maest-20s", "MAEST-20s-swa", shrunk=shorter(20)),
        Line("10s", "maest-10s", "MAEST-10s-swa", shrunk=shorter(10)),
        Line("5s", "maest-5s", "MAEST-5s-swa", shrunk=shorter(5)),
        Line(
            "effnet",
            "effnet-tagger",
            "EffNet-B0",
            changes={"crop_seconds": 30.0},
            shrunk={"crop_seconds": 30 * SHARE},
            source="maest-poster-downstream",
        ),
        Line("untrained", "", before="30s"),
        Line("effnet-untrained", "", before="effnet"),
    ),
    claims=(
        Claim("30 s teach more than 20 s", "30s", "20s"),
        Claim("20 s teach more than 10 s", "20s", "10s"),
        Claim("10 s teach more than 5 s", "10s", "5s"),
        Claim("30 s teach more than 5 s", "30s", "5s"),
        Claim("the Transformer learns more than the convolutional network", "30s", "effnet"),
        Claim("ours: tags teach the Transformer more than nothing", "30s", "untrained"),
        Claim("ours: tags teach the convolutional network more than nothing", "effnet", "effnet-untrained"),
    ),
    **ALIKE,
)
