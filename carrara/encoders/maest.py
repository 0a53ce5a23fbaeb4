"""MAEST: a patch Transformer trained on the music styles of releases in the Discogs database.

[alonso2023]; [notes/encoders §1]. A distilled ViT-B/16 over 5, 10, 20 or 30 s of 96 log-mel bands of 16 kHz audio,
trained on 400 styles (519 in one) from PaSST's weights (`fs`: from scratch, `dw`: from DeiT's; `ts`: with a teacher
too).

The setting `tokens` selects a clip's features: `cls`, `dist`, `average` (of the patches), `stack` (the three
concatenated; the authors' choice, best at layer 7) or `frames` (6.25 a second, each the mean over frequency). Layers
are numbered as in all encoders here: layer i is the raw output of block i, as in Essentia and the authors' README; the
authors' code counts from 0. Audio shorter than one patch (0.26 s) is padded with silence.

Patchout at inference: `drop_rows` and then `every_row` thin the 9 rows of frequency, `drop_columns` and `every_column`
the columns of time of each window, which is faster and less exact. A window too short to keep any column keeps its
last. A frame of a dropped column repeats the one before.

The files on GitHub are CC BY-NC-SA 4.0; the first 16 digits of their SHA-256 are known and checked. They hold no names
of styles; a `labels.json` beside a file is read. `maest-tiny` is our own size; no weights of it are published.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from carrara.encoders._base import Card, EncoderFamily
from carrara.encoders._maest.keys import from_github, match_time_positions, read_maest_checkpoint
from carrara.encoders._maest.labels import add_labels_from_file
from carrara.encoders._maest.network import SAMPLE_RATE, MaestEncoder, MaestSettings, update_maest_card

VARIANTS = {
    "maest-5s": "MAEST over 5 s, 86M: 400 Discogs styles, from PaSST's weights",
    "maest-10s": "MAEST over 10 s, from PaSST's weights",
    "maest-10s-fs": "MAEST over 10 s, from scratch",
    "maest-10s-dw": "MAEST over 10 s, from DeiT's weights",
    "maest-20s": "MAEST over 20 s, from PaSST's weights",
    "maest-30s": "MAEST over 30 s, from PaSST's weights; the best of them",
    "maest-30s-ts": "MAEST over 30 s, with another MAEST as teacher",
    "maest-30s-519": "MAEST over 30 s: 519 styles",
    "maest-tiny": "MAEST's network made small, 5 s, for laptops and CI; weights are yours to train",
}

PAPER = (
    "Alonso-Jiménez et al. 2023, Efficient Supervised Training of Audio Transformers, https://arxiv.org/abs/2309.16418"
)
# Addresses with the first 16 digits of their SHA-256; literals, because they are read without importing this file.
FILES = {
    "maest-5s": {
        "https://github.com/palonso/MAEST/releases/download/v0.0.0-beta/discogs-maest-5s-pw-129e-swa.ckpt": (
            "cc626ee9f0a816ca"
        )
    },
    "maest-10s": {
        "https://github.com/palonso/MAEST/releases/download/v0.0.0-beta/discogs-maest-10s-pw-129e-swa.ckpt": (
            "9862dbc5945a62de"
        )
    },
    "maest-10s-fs": {
        "https://github.com/palonso/MAEST/releases/download/v0.0.0-beta/discogs-maest-10s-fs-129e-swa.ckpt": (
            "62f369fbf60e93c1"
        )
    },
    "maest-10s-dw": {
        "https://github.com/palonso/MAEST/releases/download/v0.0.0-beta/discogs-maest-10s-dw-75e-swa.ckpt": (
            "1265f4cab278eb1d"
        )
    },
    "maest-20s": {
        "https://github.com/palonso/MAEST/releases/download/v0.0.0-beta/discogs-maest-20s-pw-129e-swa.ckpt": (
            "1ea0880da17aed1b"
        )
    },
    "maest-30s": {
        "https://github.com/palonso/MAEST/releases/download/v0.0.0-beta/discogs-maest-30s-pw-129e-swa.ckpt": (
            "2e8ac8ebdc8ac4a3"
        )
    },
    "maest-30s-ts": {
        "https://github.com/palonso/MAEST/releases/download/v0.0.0-beta/discogs-maest-30s-pw-73e-ts-swa.ckpt": (
            "26b954652cd75b09"
        )
    },
    "maest-30s-519": {
        "https://github.com/palonso/MAEST/releases/download/v0.0.0-beta/discogs-maest-30s-pw-129e-519l-swa.ckpt": (
            "d6044e642b6ae295"
        )
    },
}
_BENCHMARK = (
    "its authors: windows of its own length, no overlap, the last one kept if at most a tenth is missing; cls, dist "
    "and mean of the patches concatenated, layer 7, mean over windows; (log-mel - 2.068) / (2 * 1.268)"
)


def _load_official(name: str, path: Path) -> dict[str, Tensor]:
    """Return the weights of a published file, GitHub's or a Lightning checkpoint, by the network's own names.

    Raises:
        WeightsError: the file holds no weights.
    """
    return from_github(read_maest_checkpoint(path))


def _variant(name: str, settings: MaestSettings, **facts: Any) -> tuple[Card, MaestSettings]:
    fixed = {"sample_rate": SAMPLE_RATE, "frame_rate": None, "input": "log-mel", "paper": PAPER}
    card = Card.model_validate({"name": name, "num_layers": 0, "dim": 1, **fixed, **facts})
    return update_maest_card(card, settings), settings


def _published(name: str, parameters: int, **changes: Any) -> tuple[Card, MaestSettings]:
    return _variant(
        name,
        MaestSettings(**changes),
        parameters=parameters,
        license="CC-BY-NC-SA-4.0",
        commercial_use=False,
        trained_on=("Discogs20",),
        pretraining_task="tagging of music styles",
        context_seconds=float(name.split("-")[1].removesuffix("s")),
        files=FILES[name],
        benchmark_setup=_BENCHMARK,
    )


_VARIANTS: dict[str, tuple[Card, MaestSettings]] = {
    "maest-5s": _published("maest-5s", 85_903_904, frames=312),
    "maest-10s": _published("maest-10s", 85_927_712, frames=625),
    "maest-10s-fs": _published("maest-10s-fs", 85_927_712, frames=625),
    "maest-10s-dw": _published("maest-10s-dw", 85_927_712, frames=625),
    "maest-20s": _published("maest-20s", 85_976_096, frames=1250),
    "maest-30s": _published("maest-30s", 86_023_712),
    "maest-30s-ts": _published("maest-30s-ts", 86_023_712, distilled="separated"),
    "maest-30s-519": _published("maest-30s-519", 86_206_734, classes=519),
    "maest-tiny": _variant(
        "maest-tiny",
        MaestSettings(frames=312, dim=128, num_layers=4, num_heads=4, ffn_dim=512),
        parameters=935_328,
        license="no published weights",
    ),
}

ENCODER = EncoderFamily(
    settings=MaestSettings,
    build=MaestEncoder,
    variants=_VARIANTS,
    update_card=update_maest_card,
    load_official=_load_official,
    resize_positions=lambda tensors, settings, source, interpolate: match_time_positions(
        tensors, settings.shape, source, interpolate
    ),
    settings_from_files=add_labels_from_file,
)
