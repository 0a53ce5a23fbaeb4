"""HuBERT [hsu2021], and HuBERT pre-trained on music [ma2023]: it predicts the cluster of masked frames.

Both: 16 kHz, group norm, post-LN, 12 layers of 768. Speech HuBERT-base was trained on 960 h of LibriSpeech, with
clusters of MFCC (100) and then of its own layer (500); MusicHuBERT on 1,000 h of music. MusicHuBERT's weights were
never published. HuBERT-base is included for comparison.

`musichubert-tiny` is ours: the same network, small enough to pre-train on a laptop.
"""

from __future__ import annotations

from typing import Any

from carrara.encoders._base import Card, EncoderFamily
from carrara.encoders._hubert.huggingface import hubert_settings_from_files, read_hubert_weights
from carrara.encoders._hubert.network import HubertEncoder, HubertSettings, hubert_card, update_hubert_card

VARIANTS = {
    "musichubert-base": "HuBERT-base pre-trained on music, 95M, 16 kHz; no weights are published",
    "hubert-base": "HuBERT-base pre-trained on speech (LibriSpeech), 95M, 16 kHz, for comparison",
    "musichubert-tiny": "HuBERT's network made small, 16 kHz, for laptops; weights are yours to train",
}
FILES = {
    "hubert-base": {
        "facebook/hubert-base-ls960/pytorch_model.bin": (
            "062249fffb353eab67547a2fbc129f7c31a2f459faf641b19e8fb007cc5c48ad"
        )
    },
}
_HUBERT = "Hsu et al. 2021, HuBERT, IEEE/ACM TASLP 29, https://arxiv.org/abs/2106.07447"
_MUSIC = "Ma et al. 2023, On the Effectiveness of Speech SSL for Music, ISMIR, https://arxiv.org/abs/2307.05161"


class MusicHubertSettings(HubertSettings):
    """Settings of a HuBERT; the defaults are the base size's."""


# As MARBLE's models/hubert: samples of the whole file there, of each window here.
_BASE = MusicHubertSettings(standardise=True)
_TINY = MusicHubertSettings(conv_channels=64, dim=128, num_layers=4, num_heads=4, ffn_dim=512)


def _variant(name: str, settings: MusicHubertSettings, parameters: int, **fields: Any) -> tuple[Card, HubertSettings]:
    fields = {"license": "no published weights", **fields}
    return hubert_card(name, settings, window_seconds=30.0, parameters=parameters, **fields), settings


ENCODER = EncoderFamily(
    settings=MusicHubertSettings,
    build=HubertEncoder,
    update_card=update_hubert_card,
    load_official=read_hubert_weights,
    settings_from_files=hubert_settings_from_files,
    variants={
        "musichubert-base": _variant("musichubert-base", _BASE, 94_371_712, paper=_MUSIC),
        "hubert-base": _variant(
            "hubert-base",
            _BASE,
            94_371_712,
            license="Apache-2.0",
            commercial_use=True,
            trained_on=("librispeech",),
            training_hours=(960, 960),
            pretraining_task="masked prediction of k-means clusters",
            context_seconds=15.6,
            paper=_HUBERT,
            files=FILES["hubert-base"],
            benchmark_setup="Yuan's thesis, table 4.1: windows of 30 s for emotion, others not stated; mean over "
            "frames of layers 0 to 12; MARBLE standardises the samples of the whole file (here of each window)",
        ),
        "musichubert-tiny": _variant("musichubert-tiny", _TINY, 999_552, paper=_HUBERT),
    },
)
