"""MAEST: a patch Transformer that learnt music from the styles that people gave to records on Discogs.

Alonso-Jiménez, Serra, Bogdanov 2023, "Efficient Supervised Training of Audio Transformers for Music Representation
Learning" (ISMIR, arXiv 2309.16418). A distilled ViT-B/16 over 5, 10, 20 or 30 s of 96 log-mel bands of 16 kHz sound,
taught 400 styles (519 in one) from PaSST's weights (`fs`: from scratch, `dw`: from DeiT's; `ts`: by a teacher too).

What a clip's features are is a setting, `tokens`: `cls`, `dist`, `average` (of the patches), `stack` (the three side by
side; the authors' choice, best at layer 7) or `frames` (6.25 a second, each the mean over frequency). Layers count as
everywhere: row i is the raw output of block i, which Essentia and the authors' README call layer i too, while the
authors' code counts from 0. Sound shorter than one patch (0.26 s) is filled up with silence.

Patchout when hearing: `drop_rows` and then `every_row` thin the 9 rows of frequency, `drop_columns` and `every_column`
the columns of time of each window; faster and less exact. A window so short that none of its columns is left keeps its
last. Where columns are missing, a frame repeats the one before.

The files on GitHub are CC BY-NC-SA 4.0; of their SHA-256 we know, and check, the first 16 digits. They hold no names of
styles; a `labels.json` beside a file is read. `maest-tiny` is ours; nobody publishes weights for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from carrara.encoders._base import Card, EncoderFamily
from carrara.encoders._maest.keys import fitted, native, read_published
from carrara.encoders._maest.labels import labels_beside
from carrara.encoders._maest.network import SAMPLE_RATE, MaestEncoder, MaestSettings, describe

VARIANTS = {
    "maest-5s": "MAEST over 5 s, 86M: 400 Discogs styles, from PaSST's weights",
    "maest-10s": "MAEST over 10 s, from PaSST's weights",
    "maest-10s-fs": "MAEST over 10 s, from scratch",
    "maest-10s-dw": "MAEST over 10 s, from DeiT's weights",
    "maest-20s": "MAEST over 20 s, from PaSST's weights",
    "maest-30s": "MAEST over 30 s, from PaSST's weights; the best of them",
    "maest-30s-ts": "MAEST over 30 s, taught by another MAEST too",
    "maest-30s-519": "MAEST over 30 s: 519 styles",
    "maest-tiny": "MAEST's network made small, 5 s, for laptops and CI; weights are yours to train",
}

PAPER = (
    "Alonso-Jiménez et al. 2023, Efficient Supervised Training of Audio Transformers, https://arxiv.org/abs/2309.16418"
)
# Addresses with the first 16 digits of their SHA-256, written out because `_ready` reads them without running this.
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
BENCHMARK = (
    "its authors: windows of its own length, no overlap, a last one at most a tenth short kept; cls, dist and mean of "
    "the patches side by side at layer 7, mean over windows; log-mel minus 2.068, over twice 1.268"
)
TINY = MaestSettings(frames=312, dim=128, num_layers=4, num_heads=4, ffn_dim=512)


def official(name: str, path: Path) -> dict[str, Tensor]:
    """Return the weights of a published file, GitHub's or a Lightning checkpoint, by the network's own names.

    Raises:
        WeightsError: not weights.
    """
    return native(read_published(path))


def _card(name: str, **known: Any) -> Card:
    """Return a card that `describe` completes."""
    return Card(name=name, sample_rate=SAMPLE_RATE, frame_rate=None, num_layers=0, dim=1, paper=PAPER, **known)


def _published(name: str, parameters: int, **changes: Any) -> tuple[Card, MaestSettings]:
    settings = MaestSettings(**changes)
    card = _card(
        name,
        parameters=parameters,
        license="CC-BY-NC-SA-4.0",
        commercial_use=False,
        trained_on=("Discogs20",),
        files=FILES[name],
        benchmark_setup=BENCHMARK,
    )
    return describe(card, settings), settings


_VARIANTS: dict[str, tuple[Card, MaestSettings]] = {
    "maest-5s": _published("maest-5s", 85_903_904, frames=312),
    "maest-10s": _published("maest-10s", 85_927_712, frames=625),
    "maest-10s-fs": _published("maest-10s-fs", 85_927_712, frames=625),
    "maest-10s-dw": _published("maest-10s-dw", 85_927_712, frames=625),
    "maest-20s": _published("maest-20s", 85_976_096, frames=1250),
    "maest-30s": _published("maest-30s", 86_023_712),
    "maest-30s-ts": _published("maest-30s-ts", 86_023_712, distilled="separated"),
    "maest-30s-519": _published("maest-30s-519", 86_206_734, classes=519),
    "maest-tiny": (describe(_card("maest-tiny", parameters=935_328, license="no published weights"), TINY), TINY),
}

ENCODER = EncoderFamily(
    settings=MaestSettings,
    build=MaestEncoder,
    variants=_VARIANTS,
    update_card=describe,
    load_official=official,
    resize_positions=lambda tensors, settings, source, interpolate: fitted(
        tensors, settings.shape, source, interpolate
    ),
    settings_from_files=labels_beside,
)
