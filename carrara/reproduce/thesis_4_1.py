"""Speech against music: HuBERT and data2vec trained on each (thesis, table 4.1).

The averages of nine tasks are those of tables 4.2 and 4.3 [yuan2023thesis table 4.1]. Both corpora are cut to the same
number of steps, crops and seconds a step. Speech is a folder of the user's: `benchmarks/speech_corpus.py` renders one
with Debian's package espeak-ng.
"""

from carrara.reproduce._base import AblationRow, Hypothesis, Reproduction

REPRODUCTION = Reproduction(
    title="Speech against music as the corpus",
    source="thesis-T4.1",
    table="The thesis's table 4.1",
    column="ALL9",
    notes="The published column is the mean of nine tasks, from tables 4.2 and 4.3; only its order compares. "
    "The thesis's speech is LibriSpeech, and its speech networks are the published ones.",
    rows=(
        AblationRow("hubert-music", "musichubert-k2000", "MusicHuBERT[k=2000;mfcc=39]", source="thesis-T4.2"),
        AblationRow("hubert-speech", "musichubert-k2000", "HuBERT-base-speech", source="thesis-T4.2", corpus="speech"),
        AblationRow("data2vec-music", "music2vec", "Music2Vec[vanilla]", source="thesis-T4.3"),
        AblationRow(
            "data2vec-speech", "music2vec", "data2vec-audio-base-speech", source="thesis-T4.3", corpus="speech"
        ),
        AblationRow("untrained"),
    ),
    hypotheses=(
        Hypothesis("HuBERT is better from music than from speech", "hubert-music", "hubert-speech"),
        Hypothesis("data2vec is better from music than from speech", "data2vec-music", "data2vec-speech"),
        Hypothesis("MusicHuBERT is better than Music2Vec, each with its own masks", "hubert-music", "data2vec-music"),
    ),
)
