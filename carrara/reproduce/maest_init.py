"""What to begin from: random weights, DeiT's or PaSST's (MAEST's poster, impact of the initial weights).

MAEST over 10 s, mAP on MagnaTagATune. DeiT's and PaSST's official files go with the full network alone, so their lines
need `--scale base` and `--weights deit=FILE`, `--weights passt=FILE`. Ours, and no stand-in for either: `after-notes`
begins from a network that first learnt which instrument plays Pebble's single notes (`notes`).
"""

from carrara.reproduce._base import Claim, Line, Study
from carrara.reproduce._poster import ALIKE, PUBLISHED, SHRUNK, shorter

NOTES = {"labels.of": "family", "labels.split": "notes"}
FOLDER = {"initial.kind": "folder", "initial.interpolate": True}

STUDY = Study(
    title="What to begin from: MAEST's initial weights",
    source="maest-poster-init",
    table="The poster's table of MAEST's initial weights",
    told=f"{PUBLISHED} {SHRUNK} The lines `notes` and `after-notes` are no part of the poster.",
    lines=(
        Line("random", "maest-10s", "MAEST-10s-swa[init=RW]", shrunk=shorter(10)),
        Line("deit", "maest-10s-dw", "MAEST-10s-swa[init=DeiT]", weights="deit"),
        Line("passt", "maest-10s-pw", "MAEST-10s-swa[init=PaSST]", weights="passt"),
        Line("notes", "maest-5s", changes=NOTES, shrunk=shorter(5)),
        Line("after-notes", "maest-10s", changes=FOLDER, shrunk=shorter(10), after=("notes", "initial.weights")),
        Line("untrained", ""),
    ),
    claims=(
        Claim("DeiT's weights are better to begin from than random ones", "deit", "random"),
        Claim("PaSST's weights are better to begin from than random ones", "passt", "random"),
        Claim("PaSST's weights are better to begin from than DeiT's", "passt", "deit"),
        Claim("ours: weights that learnt single notes are better than random ones", "after-notes", "random"),
        Claim("ours: tags teach more than nothing", "random", "untrained"),
    ),
    **ALIKE,
)
