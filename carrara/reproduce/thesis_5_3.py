"""MERT's targets: clusters of MFCC, of log-mel and chroma, with a CQT, or residual codes (thesis, table 5.3).

MERT-95M on 1,000 h, mean of MagnaTagATune, GiantSteps key, GTZAN genre and EmoMusic [yuan2023thesis table 5.3]. The
thesis's codes are those of an RVQ-VAE (EnCodec); at a small scale they are residual k-means of log-mel, which needs no
training of its own.
"""

from carrara.reproduce._base import AblationRow, Hypothesis, Reproduction

# HuBERT's recipe masks spans of 10 frames; every row here has MERT's.
MASKS = {"masking.mask_length": 5}
KMEANS, CODES = "MERT-95M[acoustic=Kmeans", "MERT-95M[acoustic=RVQVAE-1024"

REPRODUCTION = Reproduction(
    title="MERT's acoustic and musical targets",
    source="thesis-T5.3",
    table="The thesis's table 5.3",
    column="ALL4",
    rows=(
        AblationRow("logmel-chroma-cqt", "mert-v0", f"{KMEANS}LogmelChroma-300+200;musical=CQT]"),
        AblationRow("logmel-chroma", "mert-v0-no-cqt", f"{KMEANS}LogmelChroma-300+200-iter1;musical=none]"),
        AblationRow("mfcc", "musichubert-k100", f"{KMEANS}MFCC-100;musical=none]", {"targets.mfcc.k": 100, **MASKS}),
        AblationRow("codes-cqt", "mert-v1-95m-no-mixup", f"{CODES}x8-all;musical=CQT]"),
        AblationRow("codebook-0-cqt", "mert-v1-95m-codebook-0", f"{CODES}-codebook0;musical=CQT]"),
        AblationRow("codebook-7-cqt", "mert-v1-95m-codebook-7", f"{CODES}-codebook7;musical=CQT]"),
        AblationRow("random-codebook-cqt", "mert-v1-95m-random-codebook", f"{CODES}x8-random;musical=CQT]"),
        AblationRow("untrained"),
    ),
    hypotheses=(
        Hypothesis("log-mel and chroma clusters are better than MFCC clusters", "logmel-chroma", "mfcc"),
        Hypothesis("a CQT improves on log-mel and chroma clusters alone", "logmel-chroma-cqt", "logmel-chroma"),
        Hypothesis("all eight codebooks are better than the first alone", "codes-cqt", "codebook-0-cqt"),
        Hypothesis("the first codebook alone is better than the last alone", "codebook-0-cqt", "codebook-7-cqt"),
        Hypothesis("training is better than no training", "mfcc", "untrained"),
    ),
)
