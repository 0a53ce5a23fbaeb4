"""MusicFM: a conformer trained to predict the random codes of masked mel frames.

[won2024]: BEST-RQ's teacher [chiu2022], a fixed random projection to 4096 codes, on 128 mel bands of 30-s clips at 24
kHz; 25 frames a second, 12 layers of 1024. Two sets of weights: of FMA (the paper's FM9; 8,000 h) and of the Million
Song Dataset (better, not in the paper).

The official files are pickles at huggingface.co/minzwon/MusicFM, read without running anything, with the statistics of
each training set's decibels in a JSON file beside them; where that is missing the published numbers apply. FMA's
weights from before 13 February 2024 were wrong; the SHA-256 excludes them. Dropped by name: the quantizer, its head,
the cls token, and a convolution of positions that is never called. The licence is the repository's (MIT; one file
Apache-2.0).

`musicfm-tiny` is our own size; no weights of it are published.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from carrara.core.errors import WeightsError
from carrara.core.strict_json import read_json
from carrara.encoders._base import Card, EncoderFamily
from carrara.encoders._conformer.network import (
    MSD_MEAN,
    MSD_STD,
    ConformerEncoder,
    ConformerSettings,
    conformer_card,
    convert_conformer_tensors,
    mel_statistics,
    update_conformer_card,
)
from carrara.formats.safe_pickle import read_torch_checkpoint

VARIANTS = {
    "musicfm-fma": "MusicFM, 316M, 24 kHz: random codes of masked mel frames, on FMA",
    "musicfm-msd": "MusicFM, 316M, 24 kHz, on the Million Song Dataset; the better one",
    "musicfm-tiny": "MusicFM's network made small, for laptops and CI; weights are yours to train",
}
_PAPER = "Won et al. 2024, A Foundation Model for Music Informatics, ICASSP, https://arxiv.org/abs/2311.03318"
FILES = {
    "musicfm-fma": {
        "minzwon/MusicFM/pretrained_fma.pt": "68392eee13d34c2941b3761934abb6b1e67b2e9df498695bda2ea5c1087d4b96",
        "minzwon/MusicFM/fma_stats.json": "5416e468018bae68c6231d4cbb2b11f0d11c04e6437881505ae427a3f8344904",
    },
    "musicfm-msd": {
        "minzwon/MusicFM/pretrained_msd.pt": "218b483a0256ddef736267425fabb166fd97008983696bb9270def464b47bded",
        "minzwon/MusicFM/msd_stats.json": "c36c61ab10ca4d2e7fdfefc3fcc15205316bec276a06a47baa3641a62c546f22",
    },
}
# Content of each training set's JSON file, for weights that come without it.
_STATISTICS = {
    "fma": {"melspec_2048_mean": 3.0710578151459664, "melspec_2048_std": 20.999089814337626},
    "msd": {"melspec_2048_mean": MSD_MEAN, "melspec_2048_std": MSD_STD},
}


class MusicFmSettings(ConformerSettings):
    """Settings of a MusicFM; the defaults are those of both published."""


def _load_official(name: str, path: Path) -> dict[str, Tensor]:
    """Return the weights of a published checkpoint, or a folder with it, by the network's own names.

    Raises:
        WeightsError: the file is damaged, holds other weights or is the other variant's, or the statistics cannot be
            read.
    """
    dataset = name.rpartition("-")[2]
    if dataset not in _STATISTICS:
        raise WeightsError(f"{path}: no weights of {name} are published; give musicfm-fma or musicfm-msd")
    file = path / f"pretrained_{dataset}.pt" if path.is_dir() else path
    if file.name in {f"pretrained_{other}.pt" for other in _STATISTICS if other != dataset}:
        raise WeightsError(f"{file}: is not {name} but musicfm-{file.stem.rpartition('_')[2]}; import it as that")
    content = read_torch_checkpoint(file)
    table = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    if not isinstance(table, Mapping):
        raise WeightsError(f"{file}: its state_dict is no table of tensors; give minzwon/MusicFM's {file.name}")
    statistics_file = file.parent / f"{dataset}_stats.json"
    statistics: Any = _STATISTICS[dataset]
    if statistics_file.is_file():
        try:
            statistics = read_json(statistics_file)
        except (OSError, ValueError) as problem:
            raise WeightsError(f"{statistics_file}: cannot be read ({problem}); fetch it again") from None
    return {
        **convert_conformer_tensors(table, _VARIANTS[name][1], str(file)),
        **mel_statistics(statistics if isinstance(statistics, dict) else {}, str(statistics_file)),
    }


def _variant(name: str, settings: MusicFmSettings, **facts: Any) -> tuple[Card, MusicFmSettings]:
    return conformer_card(name, settings, paper=_PAPER, **facts), settings


def _published(name: str, dataset: str) -> tuple[Card, MusicFmSettings]:
    return _variant(
        name,
        MusicFmSettings(),
        parameters=316_343_296,
        license="MIT or Apache-2.0",
        commercial_use=True,
        trained_on=(dataset,),
        pretraining_task="masked prediction of random codes of mel frames",
        context_seconds=30.0,
        benchmark_setup="MARBLE as MuQ's authors ran it: windows not stated; mean over frames, layers 0 to 12; "
        "decibels standardised with the training set's mean and deviation",
        files=FILES[name],
    )


_VARIANTS: dict[str, tuple[Card, MusicFmSettings]] = {
    "musicfm-fma": _published("musicfm-fma", "FMA"),
    "musicfm-msd": _published("musicfm-msd", "Million Song Dataset"),
    "musicfm-tiny": _variant(
        "musicfm-tiny",
        MusicFmSettings(channels=16, dim=128, num_layers=4, num_heads=4, ffn_dim=512),
        parameters=1_612_224,
        license="no published weights",
    ),
}

ENCODER = EncoderFamily(
    settings=MusicFmSettings,
    build=ConformerEncoder,
    variants=_VARIANTS,
    update_card=update_conformer_card,
    load_official=_load_official,
)
