"""Which teacher: clusters of MFCC, of log-mel and chroma, with a CQT, or residual codes (thesis, table 5.3).

MERT-95M on 1,000 h, mean of MagnaTagATune, GiantSteps key, GTZAN genre and EmoMusic. The codes were those of an RVQ-VAE
(EnCodec); at a small scale they are residual k-means of log-mel, which needs no training of its own.
"""

from carrara.reproduce._base import Claim, Line, Study

KMEANS, CODES = "MERT-95M[acoustic=Kmeans", "MERT-95M[acoustic=RVQVAE-1024"

STUDY = Study(
    title="Which teacher? MERT's acoustic and musical targets",
    source="thesis-T5.3",
    table="The thesis's table 5.3",
    column="ALL4",
    lines=(
        Line("logmel-chroma-cqt", "mert-v0", f"{KMEANS}LogmelChroma-300+200;musical=CQT]"),
        Line("logmel-chroma", "mert-v0-no-cqt", f"{KMEANS}LogmelChroma-300+200-iter1;musical=none]"),
        Line("mfcc", "musichubert-k100", f"{KMEANS}MFCC-100;musical=none]", {"targets.mfcc.k": 100}),
        Line("codes-cqt", "mert-v1-95m-no-mixup", f"{CODES}x8-all;musical=CQT]"),
        Line("codebook-0-cqt", "mert-v1-95m-codebook-0", f"{CODES}-codebook0;musical=CQT]"),
        Line("codebook-7-cqt", "mert-v1-95m-codebook-7", f"{CODES}-codebook7;musical=CQT]"),
        Line("random-codebook-cqt", "mert-v1-95m-random-codebook", f"{CODES}x8-random;musical=CQT]"),
        Line("untrained", ""),
    ),
    claims=(
        Claim("log-mel and chroma clusters teach more than MFCC clusters", "logmel-chroma", "mfcc"),
        Claim("a CQT to reconstruct adds to log-mel and chroma clusters", "logmel-chroma-cqt", "logmel-chroma"),
        Claim("all eight books teach more than the first alone", "codes-cqt", "codebook-0-cqt"),
        Claim("the first book alone teaches more than the last alone", "codebook-0-cqt", "codebook-7-cqt"),
        Claim("any teacher is better than none", "mfcc", "untrained"),
    ),
)
