"""MERT's targets: clusters of MFCC, of log-mel and chroma, with a CQT, or residual codes (thesis, table 5.3).

MERT-95M on 1,000 h, mean of MagnaTagATune, GiantSteps key, GTZAN genre and EmoMusic [yuan2023thesis table 5.3]. Rows
with k-means have `mert-v0`'s recipe in all but their targets, so crops, batches, masks and rates are equal. A second
iteration clusters a layer of the first one's model. The thesis's codes are those of an RVQ-VAE (EnCodec); at a small
scale they are residual k-means of log-mel, which needs no training of its own.
"""

from carrara.reproduce._base import AblationRow, Hypothesis, Reproduction

KMEANS, CODES = "MERT-95M[acoustic=Kmeans", "MERT-95M[acoustic=RVQVAE-1024"
# Below base there is a fifth of the clusters of MFCC, as in MusicHuBERT's recipes, and a layer in the middle of 4.
FEWER = 5
LAYER, SMALL_LAYER, SMALL_CLUSTERS = 6, 2, 100


def _mfcc(k: int, published: str) -> AblationRow:
    targets = {"mfcc": {"target": "clusters", "feature": "mfcc-39", "k": k}}
    fewer = {"targets.mfcc.k": k // FEWER}
    return AblationRow(
        f"mfcc-{k}", "mert-v0-no-cqt", f"{KMEANS}MFCC-{published};musical=none]", {"targets": targets}, fewer
    )


def _second(label: str, first: str, k: int, small_k: int, published: str) -> AblationRow:
    layer = {"target": "clusters", "feature": "layer", "encoder": "mert-v0", "layer": LAYER, "k": k}
    return AblationRow(
        label,
        "mert-v0-no-cqt",
        f"{KMEANS}{published};musical=none]",
        {"targets": {"layer": layer}},
        {"targets.layer.layer": SMALL_LAYER, "targets.layer.k": small_k},
        initial_model=(first, "targets.layer.encoder"),
    )


REPRODUCTION = Reproduction(
    title="MERT's acoustic and musical targets",
    source="thesis-T5.3",
    table="The thesis's table 5.3",
    column="ALL4",
    rows=(
        AblationRow("logmel-chroma-cqt", "mert-v0", f"{KMEANS}LogmelChroma-300+200;musical=CQT]"),
        AblationRow("logmel-chroma", "mert-v0-no-cqt", f"{KMEANS}LogmelChroma-300+200-iter1;musical=none]"),
        _second("logmel-chroma-iter2", "logmel-chroma", 500, SMALL_CLUSTERS, "LogmelChroma-500-iter2"),
        _mfcc(100, "100"),
        _mfcc(500, "500"),
        _mfcc(2000, "2000-iter1"),
        _second("mfcc-2000-iter2", "mfcc-2000", 2000, 2000 // FEWER, "MFCC-2000-iter2"),
        AblationRow("codes-cqt", "mert-v1-95m-no-mixup", f"{CODES}x8-all;musical=CQT]"),
        AblationRow("codebook-0-cqt", "mert-v1-95m-codebook-0", f"{CODES}-codebook0;musical=CQT]"),
        AblationRow("codebook-7-cqt", "mert-v1-95m-codebook-7", f"{CODES}-codebook7;musical=CQT]"),
        AblationRow("random-codebook-cqt", "mert-v1-95m-random-codebook", f"{CODES}x8-random;musical=CQT]"),
        AblationRow("untrained", untrained_of="logmel-chroma"),
    ),
    hypotheses=(
        Hypothesis("a CQT improves on log-mel and chroma clusters alone", "logmel-chroma-cqt", "logmel-chroma"),
        Hypothesis("log-mel and chroma clusters are better than MFCC clusters", "logmel-chroma", "mfcc-2000"),
        Hypothesis("500 clusters of MFCC are better than 100", "mfcc-500", "mfcc-100"),
        Hypothesis("2,000 clusters of MFCC are better than 500", "mfcc-2000", "mfcc-500"),
        Hypothesis("a second iteration of MFCC clusters does not help", "mfcc-2000", "mfcc-2000-iter2"),
        Hypothesis("a second iteration of log-mel and chroma does not help", "logmel-chroma", "logmel-chroma-iter2"),
        Hypothesis("all eight codebooks are better than the first alone", "codes-cqt", "codebook-0-cqt"),
        Hypothesis("the first codebook alone is better than the last alone", "codebook-0-cqt", "codebook-7-cqt"),
        Hypothesis("all eight codebooks are better than a random one a step", "codes-cqt", "random-codebook-cqt"),
        Hypothesis("training is better than no training", "logmel-chroma", "untrained"),
    ),
)
