"""MAEST's initial weights: random, DeiT's or PaSST's (MAEST poster).

MAEST over 10 s, mAP on MagnaTagATune [maest-poster]. DeiT's and PaSST's official files fit the full network alone, so
their rows need `--scale base` and `--weights deit=FILE`, `--weights passt=FILE`. `notes` and `after-notes` are not on
the poster: `after-notes` starts from a network that was trained on the instruments of Pebble's single notes (`notes`).
"""

from carrara.reproduce._base import AblationRow, Hypothesis, Reproduction
from carrara.reproduce._poster import CROP_NOTE, PUBLISHED_NOTE, SHARED, short_crops

NOTES = {"labels.field": "family", "labels.split": "notes"}
FOLDER = {"initial.kind": "folder", "initial.interpolate": True}

REPRODUCTION = Reproduction(
    title="MAEST's initial weights",
    source="maest-poster-init",
    table="The poster's table of MAEST's initial weights",
    notes=f"{PUBLISHED_NOTE} {CROP_NOTE} The rows `notes` and `after-notes` are not on the poster.",
    rows=(
        AblationRow("random", "maest-10s", "MAEST-10s-swa[init=RW]", small_changes=short_crops(10)),
        AblationRow("deit", "maest-10s-dw", "MAEST-10s-swa[init=DeiT]", official_weights="deit"),
        AblationRow("passt", "maest-10s-pw", "MAEST-10s-swa[init=PaSST]", official_weights="passt"),
        AblationRow("notes", "maest-5s", changes=NOTES, small_changes=short_crops(5)),
        AblationRow(
            "after-notes",
            "maest-10s",
            changes=FOLDER,
            small_changes=short_crops(10),
            initial_model=("notes", "initial.weights"),
        ),
        AblationRow("untrained"),
    ),
    hypotheses=(
        Hypothesis("DeiT's weights are a better start than random ones", "deit", "random"),
        Hypothesis("PaSST's weights are a better start than random ones", "passt", "random"),
        Hypothesis("PaSST's weights are a better start than DeiT's", "passt", "deit"),
        Hypothesis("ours: weights from single notes are a better start than random ones", "after-notes", "random"),
        Hypothesis("ours: training on tags is better than no training", "random", "untrained"),
    ),
    **SHARED,
)
