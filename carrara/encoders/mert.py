"""MERT: HuBERT's network taught music by an acoustic teacher and a constant-Q teacher.

Li et al. 2024, "MERT: Acoustic Music Understanding Model with Large-Scale Self-supervised Training" (ICLR, arXiv
2306.00107). v0: 16 kHz, k-means of log-mel (300) and chroma (200), 1,000 h; v0-public: the same on 910 h of
music4all. v1: 24 kHz, so 75 frames a second from the same convolutions; eight EnCodec books of 1024; 95M heard 5-s
crops, 330M 160,000 hours in 5.12-s crops. Hours of v1-95M differ between the sources (1k, 17k, 20k).

The 330M model is pre-LN; its last row is taken after the stack's norm (`final_norm`). Its attention relaxation is not
needed to run it. MERT-v0's dropouts are inferred from v1.

Training took raw waveforms, so the settings' default, and the recipes of pre-training, do not standardise. MARBLE
standardises clips for all but the 330M, and so do the published variants here; it matters for quiet clips only, behind
a group norm. Where an official folder's preprocessor_config.json says otherwise its word is taken, and told on import.

The official files are pickles at huggingface.co/m-a-p/MERT-v0 and so on. `mert-tiny` is ours: the same network, small
enough to pre-train on a laptop; nobody publishes weights for it.
"""

from __future__ import annotations

from carrara.encoders._base import EncoderFamily
from carrara.encoders._hubert.huggingface import read_hubert_weights, hubert_settings_from_files
from carrara.encoders._hubert.network import HubertEncoder, HubertSettings, hubert_card, update_hubert_card

VARIANTS = {
    "mert-v0": "MERT v0, 95M, 16 kHz: k-means of log-mel and chroma plus CQT, 1,000 h",
    "mert-v0-public": "MERT v0, 95M, 16 kHz, taught on the public music4all alone (910 h)",
    "mert-v1-95m": "MERT v1, 95M, 24 kHz: eight EnCodec books plus CQT",
    "mert-v1-330m": "MERT v1, 315M, 24 kHz, pre-LN, 160,000 h",
    "mert-tiny": "MERT's network made small, 16 kHz, for laptops and the demo; weights are yours to train",
}
FILES = {
    "mert-v0": {"m-a-p/MERT-v0/pytorch_model.bin": ""},
    "mert-v0-public": {"m-a-p/MERT-v0-public/pytorch_model.bin": ""},
    "mert-v1-95m": {"m-a-p/MERT-v1-95M/pytorch_model.bin": ""},
    "mert-v1-330m": {"m-a-p/MERT-v1-330M/pytorch_model.bin": ""},
}

HEARD = {
    "mert-v0": "1,000 hours of music, not published",
    "mert-v0-public": "music4all",
    "mert-v1-95m": "1,000 to 20,000 hours of music, not published; sources differ",
    "mert-v1-330m": "160,000 hours of music, not published",
}

PAPER = "Li et al. 2024, MERT, ICLR, https://arxiv.org/abs/2306.00107"


class MertSettings(HubertSettings):
    """Settings of a MERT; the defaults are those that v0 was trained with."""


BASE_V0 = MertSettings(standardise=True)
BASE_V1 = MertSettings(sample_rate=24000, standardise=True)
LARGE_V1 = MertSettings(
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
TINY = MertSettings(conv_channels=64, dim=128, num_layers=4, num_heads=4, ffn_dim=512)


def _benchmark(settings: MertSettings) -> str:
    samples = (
        "samples of the whole file standardised (here of each window)" if settings.standardise else "samples as is"
    )
    return (
        "MARBLE: windows of 30 s (5 s for emotion), no overlap, a tail under 1 s dropped; mean over frames of each of "
        f"layers 0 to {settings.num_layers}, or a weighted sum of 1 to {settings.num_layers}; {samples}"
    )


def _published(name: str, settings: MertSettings, parameters: int):
    card = hubert_card(
        name,
        settings,
        window_seconds=30.0,
        parameters=parameters,
        license="CC-BY-NC-4.0",
        commercial_use=False,
        trained_on=(HEARD[name],),
        paper=PAPER,
        files=FILES[name],
        benchmark_setup=_benchmark(settings),
    )
    return card, settings


ENCODER = EncoderFamily(
    settings=MertSettings,
    build=HubertEncoder,
    update_card=update_hubert_card,
    load_official=read_hubert_weights,
    settings_from_files=hubert_settings_from_files,
    variants={
        "mert-v0": _published("mert-v0", BASE_V0, 94_371_712),
        "mert-v0-public": _published("mert-v0-public", BASE_V0, 94_371_712),
        "mert-v1-95m": _published("mert-v1-95m", BASE_V1, 94_371_712),
        "mert-v1-330m": _published("mert-v1-330m", LARGE_V1, 315_428_992),
        "mert-tiny": (
            hubert_card(
                "mert-tiny",
                TINY,
                window_seconds=30.0,
                parameters=999_552,
                license="no published weights",
                paper=PAPER,
            ),
            TINY,
        ),
    },
)
