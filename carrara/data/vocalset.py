"""VocalSet: 20 professional singers, 9 women and 11 men, in 17 vocal techniques, 10.1 h without accompaniment.

Scales, arpeggios, long tones and excerpts, 44.1 kHz [wilkins2018]. The facts are in [notes/benchmark §1.8]. No file
lists the recordings, so the index is what is on disk, and only missing singers can be detected.

    vocalset/                                                        version 1.1, VocalSet11.zip
      FULL/<female1 … male11>/<context>/<technique>/<file>.wav
    vocalset/                                                        version 1.2
      data_by_singer/…

Version 1.2 has the same audio three times (mirdata#211): only its `data_by_singer/` is read. The folders give singer
and technique: about 28 file names lack the singer or have another order. An id is `f1/arpeggios/belt/<file's stem>`. A
stem that ends in `(1)` is a duplicate and left out, as in MARBLE (`f2_scales_vibrato_a(1)`); the four more that MARBLE
deletes because the paper's table does not name them (`caro_vibrato`, `dona_vibrato`, `row_vibrato`,
`slow_vibrato_arps`) are kept.

MARBLE's lists were never published (MARBLE#16), and its code splits differently from its text [notes/benchmark §0], so
both split schemes follow rules of Carrara's own, which never change:

- `technique`: ten techniques; test singers f2 f8 m3 m5 m10 (the authors' and MARBLE's), valid f3 f6 f9 m2 m7 m11, train
  the other nine: 9 / 6 / 5 as in [yuan2023thesis], with 4 / 3 / 2 women. The group is the singer.
- `singer`: all techniques, every singer in every split; the SHA-1 of a recording's id modulo 25 is 0 to 11 for train,
  12 to 19 for valid, 20 to 24 for test: 12 : 8 : 5 on average. The group is the recording.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from carrara.core.clip import Clip, Split
from carrara.core.download import Remote
from carrara.core.errors import DataError
from carrara.data._base import Dataset, DatasetCheck

SINGERS = (*(f"f{number}" for number in range(1, 10)), *(f"m{number}" for number in range(1, 12)))
TECHNIQUES = (
    "belt", "breathy", "inhaled", "lip_trill", "spoken", "straight", "trill", "trillo", "vibrato", "vocal_fry"
)  # fmt: skip
TEST_SINGERS = frozenset({"f2", "f8", "m3", "m5", "m10"})
VALID_SINGERS = frozenset({"f3", "f6", "f9", "m2", "m7", "m11"})
FOLDERS = ("FULL", "data_by_singer")


class VocalSet(Dataset):
    """The recordings on disk, in either layout; the layouts and splits are in the module's docstring."""

    name = "vocalset"
    title = "VocalSet"
    license = "CC BY 4.0"
    commercial_use = True
    citation = "Wilkins, Seetharaman, Wahl, Pardo: VocalSet: A Singing Voice Dataset, ISMIR 2018"
    source = "https://zenodo.org/records/1203819 (version 1.1; no login; no SHA-256 is published)"
    group_names: ClassVar[Mapping[str, str]] = {"technique": "singer", "singer": "recording"}
    remotes = (
        Remote(
            url="https://zenodo.org/records/1203819/files/VocalSet11.zip",
            path="VocalSet11.zip",
            unpack=".",
        ),
    )

    def index(self, root: Path) -> list[Clip]:
        """Return every recording on disk, by id and without group; see the base class."""
        root = Path(root)
        subfolders = (path for name in FOLDERS for path in sorted(root.glob(f"*/{name}")))
        folders = (_find_singers(path) for path in (*(root / name for name in FOLDERS), root, *subfolders))
        clips = []
        for folder, singer in next((singers for singers in folders if singers), {}).items():
            for path in folder.glob("*/*/*"):
                if path.suffix.lower() != ".wav" or path.name.startswith(".") or path.stem.endswith("(1)"):
                    continue
                context, technique = path.parts[-3:-1]
                id = f"{singer}/{context}/{technique}/{path.stem}"
                labels = {"singer": singer, "technique": technique, "context": context}
                clips.append(Clip(id=id, path=path, labels=labels))
        if not clips:
            raise DataError(
                f"{root / 'FULL'}: no recordings <female1 … male11>/<context>/<technique>/<file>.wav in it; "
                "run `carrara download vocalset`"
            )
        return sorted(clips, key=lambda clip: clip.id)

    def splits(self, root: Path) -> dict[str, dict[str, Split]]:
        """Return the split of each recording for both schemes; see the base class."""
        clips = self.index(root)
        return {
            "technique": {
                clip.id: technique_split(clip.labels["singer"])
                for clip in clips
                if clip.labels["technique"] in TECHNIQUES
            },
            "singer": {clip.id: singer_split(clip.id) for clip in clips},
        }

    def clips(self, root: Path, split_scheme: str) -> list[Clip]:
        """Return the clips of a split scheme, grouped by singer or recording; see the base class."""
        clips = super().clips(root, split_scheme)
        is_technique = split_scheme == "technique"
        return [replace(clip, group=clip.labels["singer"] if is_technique else clip.id) for clip in clips]

    def comparability(self, split_scheme: str, available: int, total: int) -> str:
        """Return what scores are comparable with; the splits are Carrara's own. See the base class."""
        return (
            f"{super().comparability(split_scheme, available, total)}; by Carrara's explicit rules, not MARBLE's "
            "unpublished lists"
        )

    def check(self, root: Path) -> DatasetCheck:
        """Check the copy, and that no singer is missing; see the base class."""
        report = super().check(root)
        present = {clip.labels["singer"] for clip in self.index(root)}
        if present == set(SINGERS):
            return report
        missing = ", ".join(singer for singer in SINGERS if singer not in present)
        line = f"singers: {len(present)}, should be {len(SINGERS)}; missing: {missing}"
        suffix = f"; {len(present)} of {len(SINGERS)} singers"
        comparability = {scheme: text + suffix for scheme, text in report.comparability.items()}
        update = {"ok": False, "differing": (*report.differing, line), "comparability": comparability}
        return report.model_copy(update=update)


def technique_split(singer: str) -> Split:
    """Return the split of a singer in the scheme `technique`."""
    if singer in TEST_SINGERS:
        return "test"
    return "valid" if singer in VALID_SINGERS else "train"


def singer_split(clip_id: str) -> Split:
    """Return the split of a recording in the scheme `singer`, by the SHA-1 of its id in UTF-8 modulo 25."""
    remainder = int(hashlib.sha1(clip_id.encode()).hexdigest(), 16) % 25
    if remainder < 12:
        return "train"
    return "valid" if remainder < 20 else "test"


def _find_singers(folder: Path) -> dict[Path, str]:
    """Return the short name of each subfolder of a singer: `female1` is f1, `male11` is m11."""
    singers: dict[Path, str] = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        match = re.fullmatch("(f|m)(?:em)?ale([0-9]+)", path.name)
        if match and f"{match[1]}{match[2]}" in SINGERS and path.is_dir():
            singers[path] = f"{match[1]}{match[2]}"
    return singers


DATASET = VocalSet()
