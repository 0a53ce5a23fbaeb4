"""VocalSet: 20 professional singers, 9 women and 11 men, in 17 vocal techniques, 10.1 h without accompaniment.

Wilkins, Seetharaman, Wahl and Pardo (ISMIR 2018): scales, arpeggios, long tones and excerpts, 44.1 kHz. Facts:
benchmark.md 1.8. No file lists the recordings, so the index is what is on disk, and no check can know what is missing
but whole singers; how many files there should be is not verified here, and no count is golden.

Layout of version 1.1, the one to take: `VocalSet11.zip` gives `FULL/<female1 … male11>/<context>/<technique>/<file>`.
Version 1.2 holds the same sound three times (mirdata#211): only its `data_by_singer/` is read, `data_by_technique/`
and `data_by_vowel/` are not. Singer and technique are the folders' names, never the file's: about 28 files have no
singer in theirs or stand in another order. An id is `f1/arpeggios/belt/<file's stem>`. A stem that ends in `(1)` is a
double and left out, as in MARBLE (`f2_scales_vibrato_a(1)`); the four more that MARBLE deletes, because the paper's
table does not name them (`caro_vibrato`, `dona_vibrato`, `row_vibrato`, `slow_vibrato_arps`), are kept.

MARBLE's lists were never published (MARBLE#16) and its code parts otherwise than its text says (section 0, 8 and 9), so
both splits here follow rules of Carrara's own, written below and fixed for ever:

- `technique`: ten techniques; test singers f2 f8 m3 m5 m10 (the authors' own and MARBLE's), valid f3 f6 f9 m2 m7 m11,
  train the other nine: 9 / 6 / 5 as the thesis has it, each side with 4 or 3 or 2 women. The group is the singer.
- `singer`: all techniques, every singer on every side; a recording goes by SHA-1 of its id mod 25: 0 to 11 train,
  12 to 19 valid, 20 to 24 test, 12 : 8 : 5 on average. The group is the recording.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from carrara.core.clip import Clip, Split
from carrara.core.download import Remote
from carrara.core.errors import DataError
from carrara.data._base import Dataset

if TYPE_CHECKING:
    from carrara.data._check import DatasetCheck

SINGERS = (*(f"f{number}" for number in range(1, 10)), *(f"m{number}" for number in range(1, 12)))
TECHNIQUES = (
    "belt", "breathy", "inhaled", "lip_trill", "spoken", "straight", "trill", "trillo", "vibrato", "vocal_fry"
)  # fmt: skip
TEST_SINGERS = frozenset({"f2", "f8", "m3", "m5", "m10"})
VALID_SINGERS = frozenset({"f3", "f6", "f9", "m2", "m7", "m11"})
TREES = ("FULL", "data_by_singer")


class VocalSet(Dataset):
    """The recordings that are on disk, in one of the two layouts."""

    name = "vocalset"
    title = "VocalSet"
    license = "CC BY 4.0"
    commercial_use = True
    citation = "Wilkins, Seetharaman, Wahl, Pardo: VocalSet: A Singing Voice Dataset, ISMIR 2018"
    source = "https://zenodo.org/records/1203819 (version 1.1; no login; no SHA-256 is published)"
    remotes = (
        Remote(
            url="https://zenodo.org/records/1203819/files/VocalSet11.zip",
            path="VocalSet11.zip",
            unpack=".",
        ),
    )

    def index(self, root: Path) -> list[Clip]:
        """Return every recording on disk, by id; see the base class. With two splits, none has a group outside them."""
        found = sorted(_recordings(_tree(Path(root))), key=lambda clip: clip.id)
        if not found:
            raise DataError(
                f"{Path(root) / 'FULL'}: no recordings <female1 … male11>/<context>/<technique>/<file>.wav in it; "
                "`carrara download vocalset` gives them"
            )
        return found

    def splits(self, root: Path) -> dict[str, dict[str, Split]]:
        """Return the side of each recording for both tasks; see the base class."""
        clips = self.index(root)
        return {
            "technique": {
                clip.id: technique_side(clip.labels["singer"])
                for clip in clips
                if clip.labels["technique"] in TECHNIQUES
            },
            "singer": {clip.id: singer_side(clip.id) for clip in clips},
        }

    def clips(self, root: Path, split: str) -> list[Clip]:
        """Return the clips of a split, grouped by what that split keeps apart; see the base class."""
        found = super().clips(root, split)
        return [replace(clip, group=clip.labels["singer"] if split == "technique" else clip.id) for clip in found]

    def called(self, split: str, left: int, whole: int) -> str:
        """Return what a score may be called: the splits are nobody else's; see the base class."""
        return (
            f"{super().comparability(split, left, whole)}; by Carrara's explicit rules, not MARBLE's unpublished lists"
        )

    def check(self, root: Path) -> DatasetCheck:
        """Compare the disk with what is known: every file opens, no sound stands twice, no singer is missing."""
        found = super().check(root)
        there = {clip.labels["singer"] for clip in self.index(root)}
        if there == set(SINGERS):
            return found
        absent = ", ".join(singer for singer in SINGERS if singer not in there)
        line = f"singers: {len(there)}, should be {len(SINGERS)}; not there: {absent}"
        called = {
            split: f"{words}; {len(there)} of {len(SINGERS)} singers" for split, words in found.comparability.items()
        }
        return found.model_copy(update={"ok": False, "differing": (*found.differing, line), "called": called})


def technique_side(singer: str) -> Split:
    """Return the side of a singer in the split for techniques."""
    if singer in TEST_SINGERS:
        return "test"
    return "valid" if singer in VALID_SINGERS else "train"


def singer_side(identity: str) -> Split:
    """Return the side of a recording in the split for singers, by SHA-1 of its id as UTF-8, mod 25."""
    place = int(hashlib.sha1(identity.encode()).hexdigest(), 16) % 25
    if place < 12:
        return "train"
    return "valid" if place < 20 else "test"


def _recordings(tree: Path) -> Iterator[Clip]:
    for folder, singer in _singers(tree).items():
        for path in folder.glob("*/*/*"):
            if path.suffix.lower() != ".wav" or path.name.startswith(".") or path.stem.endswith("(1)"):
                continue
            context, technique = path.parts[-3:-1]
            yield Clip(
                id=f"{singer}/{context}/{technique}/{path.stem}",
                path=path,
                labels={"singer": singer, "technique": technique, "context": context},
            )


def _tree(root: Path) -> Path:
    folders = [*(root / name for name in TREES), root, *(at for name in TREES for at in sorted(root.glob(f"*/{name}")))]
    return next((folder for folder in folders if _singers(folder)), root)


def _singers(tree: Path) -> dict[Path, str]:
    """Return the short name of each folder that is a singer's: `female1` is f1, `male11` is m11."""
    found: dict[Path, str] = {}
    for folder in tree.iterdir() if tree.is_dir() else ():
        named = re.fullmatch("(f|m)(?:em)?ale([0-9]+)", folder.name)
        if named and f"{named[1]}{named[2]}" in SINGERS and folder.is_dir():
            found[folder] = f"{named[1]}{named[2]}"
    return found


DATASET = VocalSet()
