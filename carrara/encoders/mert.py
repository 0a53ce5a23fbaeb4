"""MERT: HuBERT's network pre-trained on music with acoustic codes and a constant-Q transform as targets [li2024].

v0: 16 kHz, k-means of log-mel (300) and chroma (200), 1,000 h; v0-public: the same on 910 h of music4all. v1: 24 kHz,
so 75 frames a second from the same convolutions; eight EnCodec codebooks of 1024; 95M was trained on 5-s crops, 330M on
160,000 hours in 5.12-s crops. The hours of v1-95M differ between the sources (1k, 17k, 20k).

The 330M model is pre-LN; its last layer is taken after the stack's norm (`final_norm`). Its attention relaxation is not
needed at inference. MERT-v0's dropouts are inferred from v1.

Training took raw waveforms, so the settings' default and the recipes do not standardise. MARBLE [yuan2023] standardises
clips for all but the 330M, and so do the published variants here; behind a group norm this matters for quiet clips
only. If an official folder's preprocessor_config.json says otherwise, it is followed, and the import reports it.

The official files are pickles at huggingface.co/m-a-p/MERT-v0 and so on. `mert-tiny` is ours: the same network, small
enough to pre-train on a laptop; no weights of it are published.
"""

from __future__ import annotations

from carrara.encoders._base import Card, EncoderFamily
from carrara.encoders._hubert.huggingface import hubert_settings_from_files, read_hubert_weights
from carrara.encoders._hubert.network import HubertEncoder, HubertSettings, hubert_card, update_hubert_card

VARIANTS = {
    "mert-v0": "MERT v0, 95M, 16 kHz: k-means of log-mel and chroma plus CQT, 1,000 h",
    "mert-v0-public": "MERT v0, 95M, 16 kHz, trained on the public music4all alone (910 h)",
    "mert-v1-95m": "MERT v1, 95M, 24 kHz: eight EnCodec codebooks plus CQT",
    "mert-v1-330m": "MERT v1, 315M, 24 kHz, pre-LN, 160,000 h",
    "mert-tiny": "MERT's network made small, 16 kHz, for laptops and the demo; weights are yours to train",
}
FILES = {
    "mert-v0": {"m-a-p/MERT-v0/pytorch_model.bin": ""},
    "mert-v0-public": {"m-a-p/MERT-v0-public/pytorch_model.bin": ""},
    "mert-v1-95m": {"m-a-p/MERT-v1-95M/pytorch_model.bin": ""},
    "mert-v1-330m": {"m-a-p/MERT-v1-330M/pytorch_model.bin": ""},
}
_PAPER = "Li et al. 2024, MERT, ICLR, https://arxiv.org/abs/2306.00107"


class MertSettings(HubertSettings):
    """Settings of a MERT; the defaults are those that v0 was trained with."""


_V0 = MertSettings(standardise=True)
_V1_95M = MertSettings(sample_rate=24000, standardise=True)
_V1_330M = MertSettings(
    sample_rate=24000,
    dim=1024,
    num_layers=24,
    num_heads=16,
    ffn_dim=4096,
    norm_placement="pre",
    conv_gradient=1.0,
    dropout=0.0,
    attention_dropout=0.0,
    input_dropout=0.0,
    layerdrop=0.0,
)
_TINY = MertSettings(conv_channels=64, dim=128, num_layers=4, num_heads=4, ffn_dim=512)


def _published(
    name: str, settings: MertSettings, parameters: int, trained_on: str, hours: tuple[float, float]
) -> tuple[Card, MertSettings]:
    samples = (
        "samples of the whole file standardised (here of each window)" if settings.standardise else "samples as is"
    )
    layers = settings.num_layers
    targets = "k-means clusters" if settings.sample_rate == 16_000 else "EnCodec's codes"
    card = hubert_card(
        name,
        settings,
        window_seconds=30.0,
        parameters=parameters,
        license="CC-BY-NC-4.0",
        commercial_use=False,
        trained_on=(trained_on,),
        training_hours=hours,
        pretraining_task=f"masked prediction of {targets}, CQT reconstruction",
        context_seconds=5.12 if name == "mert-v1-330m" else 5.0,
        paper=_PAPER,
        files=FILES[name],
        benchmark_setup="MARBLE: windows of 30 s (5 s for emotion), no overlap, a tail under 1 s dropped; mean over "
        f"frames of each of layers 0 to {layers}, or a weighted sum of 1 to {layers}; {samples}",
    )
    return card, settings


_TINY_CARD = hubert_card(
    "mert-tiny", _TINY, window_seconds=30.0, parameters=999_552, license="no published weights", paper=_PAPER
)

ENCODER = EncoderFamily(
    settings=MertSettings,
    build=HubertEncoder,
    update_card=update_hubert_card,
    load_official=read_hubert_weights,
    settings_from_files=hubert_settings_from_files,
    variants={
        "mert-v0": _published("mert-v0", _V0, 94_371_712, "1,000 hours of music, not published", (1000, 1000)),
        "mert-v0-public": _published("mert-v0-public", _V0, 94_371_712, "music4all", (910, 910)),
        "mert-v1-95m": _published(
            "mert-v1-95m",
            _V1_95M,
            94_371_712,
            "1,000 to 20,000 hours of music, not published; sources differ",
            (1000, 20_000),
        ),
        "mert-v1-330m": _published(
            "mert-v1-330m", _V1_330M, 315_428_992, "160,000 hours of music, not published", (160_000, 160_000)
        ),
        "mert-tiny": (_TINY_CARD, _TINY),
    },
)
