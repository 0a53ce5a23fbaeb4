"""MusicHuBERT's targets: number of clusters, number of cepstra, iterations (thesis, table 4.2).

HuBERT-base on 1,000 h of music, mean of nine tasks [yuan2023thesis table 4.2]. The second iteration clusters a layer of
the 2,000-cluster model.
"""

from carrara.reproduce._base import AblationRow, Hypothesis, Reproduction

REPRODUCTION = Reproduction(
    title="MusicHuBERT's clusters, cepstra and iterations",
    source="thesis-T4.2",
    table="The thesis's table 4.2",
    column="ALL9",
    rows=(
        AblationRow("k2000", "musichubert-k2000", "MusicHuBERT[k=2000;mfcc=39]"),
        AblationRow("k500", "musichubert-k500", "MusicHuBERT[k=500;mfcc=39]"),
        AblationRow("mfcc60", "musichubert-mfcc60", "MusicHuBERT[k=500;mfcc=60]"),
        AblationRow(
            "iter2",
            "musichubert-iter2",
            "MusicHuBERT[k=2000;iter2]",
            initial_model=("k2000", "targets.layer.encoder"),
        ),
        AblationRow("untrained"),
    ),
    hypotheses=(
        Hypothesis("2,000 clusters are better than 500", "k2000", "k500"),
        Hypothesis("60 cepstra are better than 39", "mfcc60", "k500"),
        Hypothesis("one iteration is better than two", "k2000", "iter2"),
    ),
)
