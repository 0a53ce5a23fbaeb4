"""HuBERT, and the same taught music: a student that guesses the cluster of the frames it does not see.

Hsu et al. 2021, "HuBERT" (IEEE/ACM TASLP 29, arXiv 2106.07447); Ma et al. 2023, "On the Effectiveness of Speech
Self-supervised Learning for Music" (ISMIR, arXiv 2307.05161) for MusicHuBERT. Both: 16 kHz, group norm, post-LN, 12
layers of 768. Speech HuBERT-base learnt from 960 h of LibriSpeech, clusters of MFCC (100) and then of its own layer
(500); MusicHuBERT from 1,000 h of music. MusicHuBERT's weights were never published. HuBERT-base is kept for
comparison.

`musichubert-tiny` is ours: the same network, small enough to pre-train on a laptop.
"""

from __future__ import annotations

from carrara.encoders._base import EncoderFamily
from carrara.encoders._hubert.huggingface import read_hubert_weights, hubert_settings_from_files
from carrara.encoders._hubert.network import HubertEncoder, HubertSettings, hubert_card, update_hubert_card

VARIANTS = {
    "musichubert-base": "HuBERT-base taught music, 95M, 16 kHz; no weights are published",
    "hubert-base": "HuBERT-base taught speech (LibriSpeech), 95M, 16 kHz, for comparison",
    "musichubert-tiny": "HuBERT's network made small, 16 kHz, for laptops; weights are yours to train",
}
FILES = {
    "hubert-base": {
        "facebook/hubert-base-ls960/pytorch_model.bin": (
            "062249fffb353eab67547a2fbc129f7c31a2f459faf641b19e8fb007cc5c48ad"
        )
    },
}

HUBERT = "Hsu et al. 2021, HuBERT, IEEE/ACM TASLP 29, https://arxiv.org/abs/2106.07447"
MUSIC = "Ma et al. 2023, On the Effectiveness of Speech SSL for Music, ISMIR, https://arxiv.org/abs/2307.05161"


class MusicHubertSettings(HubertSettings):
    """Settings of a HuBERT; the defaults are the base size's."""


BASE = MusicHubertSettings()
TINY = MusicHubertSettings(conv_channels=64, dim=128, num_layers=4, num_heads=4, ffn_dim=512)

ENCODER = EncoderFamily(
    settings=MusicHubertSettings,
    build=HubertEncoder,
    update_card=update_hubert_card,
    load_official=read_hubert_weights,
    settings_from_files=hubert_settings_from_files,
    variants={
        "musichubert-base": (
            hubert_card(
                "musichubert-base",
                BASE,
                window_seconds=30.0,
                parameters=94_371_712,
                license="no published weights",
                paper=MUSIC,
            ),
            BASE,
        ),
        "hubert-base": (
            hubert_card(
                "hubert-base",
                BASE,
                window_seconds=30.0,
                parameters=94_371_712,
                license="Apache-2.0",
                commercial_use=True,
                trained_on=("librispeech",),
                paper=HUBERT,
                files=FILES["hubert-base"],
                benchmark_setup="the thesis, table 4.1: windows of 30 s for emotion, others not stated; mean over frames of "
                "layers 0 to 12; normalisation not stated, here samples as they are",
            ),
            BASE,
        ),
        "musichubert-tiny": (
            hubert_card(
                "musichubert-tiny",
                TINY,
                window_seconds=30.0,
                parameters=999_552,
                license="no published weights",
                paper=HUBERT,
            ),
            TINY,
        ),
    },
)
