"""MusicFM: a conformer that learnt music by telling the random codes of masked mel frames.

Won, Hung, Le 2024, "A Foundation Model for Music Informatics" (ICASSP, arXiv 2311.03318): BEST-RQ's teacher, a fixed
random projection to 4096 codes, on 128 mel bands of 30-s clips at 24 kHz; 25 frames a second, 12 layers of 1024. Two
sets of weights: of FMA (the paper's FM9; 8,000 h) and of the Million Song Dataset (better, not in the paper).

The official files are pickles at huggingface.co/minzwon/MusicFM, read without running anything, with the statistics of
each training set's decibels in a JSON file beside; where that is missing the published numbers are taken. FMA's weights
of before 13 February 2024 were wrong, which the SHA-256 tells. Left out by name: the quantiser, its head, the cls
token, and a convolution of positions that is never called. The licence is the repository's (MIT; one file Apache-2.0).

`musicfm-tiny` is ours: the same network made small; nobody publishes weights for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from carrara.core.errors import WeightsError
from carrara.encoders._base import Card, EncoderFamily
from carrara.encoders._conformer.network import (
    MSD_DEVIATION,
    MSD_MEAN,
    ConformerEncoder,
    ConformerSettings,
    describe,
    known,
    network_tensors,
    statistics,
)
from carrara.formats.safe_pickle import read_checkpoint

VARIANTS = {
    "musicfm-fma": "MusicFM, 316M, 24 kHz: random codes of masked mel frames, on FMA",
    "musicfm-msd": "MusicFM, 316M, 24 kHz, on the Million Song Dataset; the better one",
    "musicfm-tiny": "MusicFM's network made small, for laptops and CI; weights are yours to train",
}
PAPER = "Won et al. 2024, A Foundation Model for Music Informatics, ICASSP, https://arxiv.org/abs/2311.03318"
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
# What each training set's JSON file says, for weights that come without it.
PUBLISHED = {
    "fma": {"melspec_2048_mean": 3.0710578151459664, "melspec_2048_std": 20.999089814337626},
    "msd": {"melspec_2048_mean": MSD_MEAN, "melspec_2048_std": MSD_DEVIATION},
}


class MusicFmSettings(ConformerSettings):
    """Settings of a MusicFM; the defaults are those of both published."""


TINY = MusicFmSettings(channels=16, dim=128, num_layers=4, num_heads=4, ffn_dim=512)


def official(name: str, path: Path) -> dict[str, Tensor]:
    """Return the weights of a published checkpoint, or a folder with it, by the network's own names.

    Raises:
        WeightsError: not whole, not such weights, the other variant's, or statistics that cannot be read.
    """
    trained_on = name.rpartition("-")[2]
    if trained_on not in PUBLISHED:
        raise WeightsError(f"{path}: nobody publishes weights of {name}; give musicfm-fma or musicfm-msd")
    file = path / f"pretrained_{trained_on}.pt" if path.is_dir() else path
    if file.name in {f"pretrained_{other}.pt" for other in PUBLISHED if other != trained_on}:
        raise WeightsError(f"{file}: is not {name} but musicfm-{file.stem.rpartition('_')[2]}; import it as that")
    content = read_checkpoint(file)
    table = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    if not isinstance(table, Mapping):
        raise WeightsError(f"{file}: its state_dict is no table of tensors; give minzwon/MusicFM's {file.name}")
    settings = _VARIANTS[name][1]
    beside = file.parent / f"{trained_on}_stats.json"
    numbers = _read(beside) if beside.is_file() else PUBLISHED[trained_on]
    return {**network_tensors(table, settings, str(file)), **statistics(numbers, str(beside))}


def _read(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise WeightsError(f"{path}: cannot be read ({problem}); fetch it again") from None
    return found if isinstance(found, dict) else {}


def _published(name: str, dataset: str) -> tuple[Card, MusicFmSettings]:
    settings = MusicFmSettings()
    card = known(
        name,
        parameters=316_343_296,
        license="MIT or Apache-2.0",
        commercial_use=True,
        trained_on=(dataset,),
        paper=PAPER,
        benchmark_setup="MARBLE as MuQ's authors ran it: windows not stated; mean over frames, layers 0 to 12; decibels "
        "standardised with the training set's mean and deviation",
        files=FILES[name],
    )
    return describe(card, settings), settings


_VARIANTS: dict[str, tuple[Card, MusicFmSettings]] = {
    "musicfm-fma": _published("musicfm-fma", "FMA"),
    "musicfm-msd": _published("musicfm-msd", "Million Song Dataset"),
    "musicfm-tiny": (
        describe(known("musicfm-tiny", parameters=1_612_224, license="no published weights", paper=PAPER), TINY),
        TINY,
    ),
}

ENCODER = EncoderFamily(
    settings=MusicFmSettings, build=ConformerEncoder, variants=_VARIANTS, update_card=describe, load_official=official
)
