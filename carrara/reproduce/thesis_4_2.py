"""How many clusters, of which cepstra, how often: MusicHuBERT's teachers (thesis, table 4.2).

HuBERT-base on 1,000 h of music, mean of nine tasks. The second iteration clusters a layer of the 2,000-cluster model.
"""

from carrara.reproduce._base import Claim, Line, Study

STUDY = Study(
    title="MusicHuBERT: how many clusters, of what, how often",
    source="thesis-T4.2",
    table="The thesis's table 4.2",
    column="ALL9",
    lines=(
        Line("k2000", "musichubert-k2000", "MusicHuBERT[k=2000;mfcc=39]"),
        Line("k500", "musichubert-k500", "MusicHuBERT[k=500;mfcc=39]"),
        Line("mfcc60", "musichubert-mfcc60", "MusicHuBERT[k=500;mfcc=60]"),
        Line(
            "iter2",
            "musichubert-iter2",
            "MusicHuBERT[k=2000;iter2]",
            after=("k2000", "targets.layer.encoder"),
        ),
        Line("untrained", ""),
    ),
    claims=(
        Claim("more clusters teach more", "k2000", "k500"),
        Claim("60 cepstra teach more than 39", "mfcc60", "k500"),
        Claim("a second iteration adds nothing", "k2000", "iter2"),
    ),
)
