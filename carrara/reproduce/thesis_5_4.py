"""MERT's CQT weight and in-batch noise mixup (thesis, table 5.4).

MERT-95M on 1,000 h, mean of MagnaTagATune, GiantSteps key, GTZAN genre and EmoMusic [yuan2023thesis table 5.4]. Rows
that table 5.3 has too have its labels: with the same output folder they are not trained again.
"""

from carrara.reproduce._base import AblationRow, Hypothesis, Reproduction

KMEANS, CODES = "MERT-95M-Kmeans", "MERT-95M-RVQVAE"

REPRODUCTION = Reproduction(
    title="MERT's CQT weight and mixup",
    source="thesis-T5.4",
    table="The thesis's table 5.4",
    column="ALL4",
    rows=(
        AblationRow("logmel-chroma-cqt", "mert-v0", f"{KMEANS}[musical_weight=1;mixup=none]"),
        AblationRow("logmel-chroma", "mert-v0-no-cqt", f"{KMEANS}[musical_weight=none;mixup=none]"),
        AblationRow("cqt-2", "mert-v0-cqt2", f"{KMEANS}[musical_weight=2;mixup=none]"),
        AblationRow("cqt-5", "mert-v0-cqt5", f"{KMEANS}[musical_weight=5;mixup=none]"),
        AblationRow("mixup-25", "mert-v0-mixup25", f"{KMEANS}[musical_weight=1;mixup=0.25]"),
        AblationRow("mixup-50", "mert-v0-mixup50", f"{KMEANS}[musical_weight=1;mixup=0.5]"),
        AblationRow("codes-cqt", "mert-v1-95m-no-mixup", f"{CODES}[musical_weight=1;mixup=none]"),
        AblationRow("codes-mixup-50", "mert-v1-95m", f"{CODES}[musical_weight=1;mixup=0.5]"),
        AblationRow("untrained"),
    ),
    hypotheses=(
        Hypothesis("weight 1 is better than no CQT", "logmel-chroma-cqt", "logmel-chroma"),
        Hypothesis("weight 1 is better than weight 2", "logmel-chroma-cqt", "cqt-2"),
        Hypothesis("weight 1 is better than weight 5", "logmel-chroma-cqt", "cqt-5"),
        Hypothesis("k-means targets are better without a quarter of mixup", "logmel-chroma-cqt", "mixup-25"),
        Hypothesis("k-means targets are better without mixup", "logmel-chroma-cqt", "mixup-50"),
        Hypothesis("codes are better with mixup", "codes-mixup-50", "codes-cqt"),
    ),
)
