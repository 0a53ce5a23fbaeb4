"""How much CQT, and whether to mix: the weight of the CQT and in-batch noise (thesis, table 5.4).

MERT-95M on 1,000 h, mean of MagnaTagATune, GiantSteps key, GTZAN genre and EmoMusic.
"""

from carrara.reproduce._base import Claim, Line, Study

KMEANS, CODES = "MERT-95M-Kmeans", "MERT-95M-RVQVAE"

STUDY = Study(
    title="How much CQT, and whether to mix",
    source="thesis-T5.4",
    table="The thesis's table 5.4",
    column="ALL4",
    lines=(
        Line("cqt-1", "mert-v0", f"{KMEANS}[musical_weight=1;mixup=none]"),
        Line("no-cqt", "mert-v0-no-cqt", f"{KMEANS}[musical_weight=none;mixup=none]"),
        Line("cqt-2", "mert-v0-cqt2", f"{KMEANS}[musical_weight=2;mixup=none]"),
        Line("cqt-5", "mert-v0-cqt5", f"{KMEANS}[musical_weight=5;mixup=none]"),
        Line("mixup-25", "mert-v0-mixup25", f"{KMEANS}[musical_weight=1;mixup=0.25]"),
        Line("mixup-50", "mert-v0-mixup50", f"{KMEANS}[musical_weight=1;mixup=0.5]"),
        Line("codes", "mert-v1-95m-no-mixup", f"{CODES}[musical_weight=1;mixup=none]"),
        Line("codes-mixup-50", "mert-v1-95m", f"{CODES}[musical_weight=1;mixup=0.5]"),
        Line("untrained", ""),
    ),
    claims=(
        Claim("weight 1 is better than no CQT", "cqt-1", "no-cqt"),
        Claim("weight 1 is better than weight 5", "cqt-1", "cqt-5"),
        Claim("mixing hurts the k-means teacher", "cqt-1", "mixup-50"),
        Claim("mixing helps the codes", "codes-mixup-50", "codes"),
    ),
)
