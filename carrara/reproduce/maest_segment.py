"""MAEST's segment length: 5, 10, 20 and 30 s, beside a convolutional network (MAEST poster).

MAP on MagnaTagATune, and on the validation songs of the tags that are learnt [maest-poster]. Rows named `last` have the
same training's last weights and not the averaged ones. The poster's networks start from PaSST's weights, these from
random ones. EfficientNet-B0 is the poster's baseline, from its table of downstream tasks: here it has the same tags and
songs, the longest crops, and the same recipe.
"""

from carrara.reproduce._base import AblationRow, Hypothesis, Reproduction
from carrara.reproduce._poster import CROP_FRACTION, CROP_NOTE, PUBLISHED_NOTE, SHARED, short_crops

REPRODUCTION = Reproduction(
    title="MAEST's segment length, and a convolutional network",
    source="maest-poster-segment",
    table="The poster's table of MAEST's segment length",
    notes=f"{PUBLISHED_NOTE} {CROP_NOTE} The poster's MAEST starts from PaSST's weights, all rows here from random "
    "ones. `effnet` is EfficientNet trained by the same recipe, on crops as long as those of `30s`; its published "
    "figure is from the poster's table of downstream tasks.",
    rows=(
        AblationRow("30s", "maest-30s", "MAEST-30s-swa", small_changes=short_crops(30)),
        AblationRow("20s", "maest-20s", "MAEST-20s-swa", small_changes=short_crops(20)),
        AblationRow("10s", "maest-10s", "MAEST-10s-swa", small_changes=short_crops(10)),
        AblationRow("5s", "maest-5s", "MAEST-5s-swa", small_changes=short_crops(5)),
        *(
            AblationRow(f"{length}-last", published=f"MAEST-{length}", last_weights_of=length)
            for length in ("30s", "20s", "10s", "5s")
        ),
        AblationRow(
            "effnet",
            "effnet-tagger",
            "EffNet-B0",
            changes={"crop_seconds": 30.0},
            small_changes={"crop_seconds": 30 * CROP_FRACTION},
            source="maest-poster-downstream",
        ),
        AblationRow("untrained", untrained_of="30s"),
        AblationRow("effnet-untrained", untrained_of="effnet"),
    ),
    hypotheses=(
        Hypothesis("30 s are better than 20 s", "30s", "20s"),
        Hypothesis("20 s are better than 10 s", "20s", "10s"),
        Hypothesis("10 s are better than 5 s", "10s", "5s"),
        Hypothesis("30 s are better than 5 s", "30s", "5s"),
        Hypothesis("the last weights are better than the averaged ones, at 30 s", "30s-last", "30s"),
        Hypothesis("the averaged weights are better than the last ones, at 5 s", "5s", "5s-last"),
        Hypothesis("the Transformer is better than the convolutional network", "30s", "effnet"),
        Hypothesis("ours: training the Transformer on tags is better than no training", "30s", "untrained"),
        Hypothesis(
            "ours: training the convolutional network on tags is better than no training", "effnet", "effnet-untrained"
        ),
    ),
    **SHARED,
)
