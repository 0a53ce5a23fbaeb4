"""Music2Vec [li2022] and data2vec-audio [baevski2022]: they predict an averaged copy's features of masked frames.

16 kHz, standardised waveforms, layer norm after every convolution, five positional convolutions of kernel 19, post-LN,
12 layers of 768. data2vec-audio-base was trained on 960 h of LibriSpeech, Music2Vec on 1,000 h of music in 30-s (or
5-s) crops. The convolutions' output, the extra "cnn", is best for key detection [music2vec-poster].

`music2vec-tiny` is ours: the same network, small enough to pre-train on a laptop.
"""

from __future__ import annotations

from typing import Any

from carrara.encoders._base import Card, EncoderFamily
from carrara.encoders._hubert.huggingface import hubert_settings_from_files, read_hubert_weights
from carrara.encoders._hubert.network import HubertEncoder, HubertSettings, hubert_card, update_hubert_card

VARIANTS = {
    "music2vec-v1": "Music2Vec, 93M, 16 kHz: data2vec pre-trained on music, 1,000 h",
    "data2vec-audio-base": "data2vec-audio pre-trained on speech (LibriSpeech), 93M, 16 kHz, for comparison",
    "music2vec-tiny": "Music2Vec's network made small, 16 kHz, for laptops; weights are yours to train",
}
FILES = {
    "music2vec-v1": {"m-a-p/music2vec-v1/pytorch_model.bin": ""},
    "data2vec-audio-base": {"facebook/data2vec-audio-base/pytorch_model.bin": ""},
}
_DATA2VEC = "Baevski et al. 2022, data2vec, ICML, https://arxiv.org/abs/2202.03555"
_MUSIC2VEC = "Li et al. 2022, MAP-Music2Vec, https://arxiv.org/abs/2212.02508"


class Music2vecSettings(HubertSettings):
    """Settings of a data2vec-shaped network; the defaults are the base size's."""

    conv_norm: str = "layer"  # type: ignore[assignment]
    conv_gradient: float = 1.0
    input_dropout: float = 0.0
    positions: str = "data2vec"  # type: ignore[assignment]
    position_kernel: int = 19
    position_depth: int = 5
    standardise: bool = True


_BASE = Music2vecSettings()
_TINY = Music2vecSettings(conv_channels=64, dim=128, num_layers=4, num_heads=4, ffn_dim=512)


_TASK = "masked prediction of the features of its own moving average"


def _variant(name: str, settings: Music2vecSettings, parameters: int, **fields: Any) -> tuple[Card, HubertSettings]:
    return hubert_card(name, settings, window_seconds=30.0, parameters=parameters, **fields), settings


ENCODER = EncoderFamily(
    settings=Music2vecSettings,
    build=HubertEncoder,
    update_card=update_hubert_card,
    load_official=read_hubert_weights,
    settings_from_files=hubert_settings_from_files,
    variants={
        "music2vec-v1": _variant(
            "music2vec-v1",
            _BASE,
            93_164_288,
            license="CC-BY-NC-4.0",
            commercial_use=False,
            trained_on=("1,000 hours of music, not published",),
            training_hours=(1000, 1000),
            pretraining_task=_TASK,
            context_seconds=30.0,
            paper=_MUSIC2VEC,
            files=FILES["music2vec-v1"],
            benchmark_setup="MARBLE: windows of 30 s, no overlap; mean over frames of each of layers 0 to 12, or a "
            "weighted sum of 1 to 12; samples of the whole file standardised (here of each window)",
        ),
        "data2vec-audio-base": _variant(
            "data2vec-audio-base",
            _BASE,
            93_164_288,
            license="Apache-2.0",
            commercial_use=True,
            trained_on=("librispeech",),
            training_hours=(960, 960),
            pretraining_task=_TASK,
            context_seconds=20.0,
            paper=_DATA2VEC,
            files=FILES["data2vec-audio-base"],
            benchmark_setup="Yuan's thesis, table 4.1: windows not stated; mean over frames of layers 0 to 12; "
            "normalisation not stated, here samples standardised as in its training",
        ),
        "music2vec-tiny": _variant("music2vec-tiny", _TINY, 966_912, license="no published weights", paper=_MUSIC2VEC),
    },
)
