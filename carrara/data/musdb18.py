"""MUSDB18: 150 whole songs, 9.8 h, in four stems: vocals, drums, bass and other; 44.1 kHz stereo.

Rafii, Liutkus, Stöter, Mimilakis and Bittner (2017): 100 songs to train on and 50 to test on, of DSD100, MedleyDB and
others. Facts: benchmark.md 1.9. No file lists the songs, so the index is what is on disk, and the counts are golden.

Layouts: `train/` and `test/` with `<song>.stem.mp4` (Zenodo 1117372; five AAC streams: 0 mixture, 1 drums, 2 bass, 3
other, 4 vocals), or with a folder a song that holds `mixture.wav vocals.wav drums.wav bass.wav other.wav` (MUSDB18-HQ,
Zenodo 3338373, or what `musdbconvert` writes). A song that is there in both is read from its folder, which is quicker.
A folder `valid/`, which MARBLE's first code wants made by hand, counts as `train/`. In the lossy stems the mixture is
not the exact sum; scores on the two editions are not quite the same thing, and their records have other fingerprints.

Named split, `official`: test is the test folder, valid the 14 songs of the training folder that `mus.yaml` of
sigsep-mus-db names, train the other 86. An id is the song's name, `<artist> - <title>`, and its own group: the authors'
lists part songs, not artists (Patrick Talbot stands in train and in valid). Labels are flat, as Pebble's: for each stem
`stream:<number>` or a file name beside the mixture (`carrara/audio/stems.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from carrara.core.clip import Clip, Split
from carrara.core.errors import DataError
from carrara.data._base import Dataset

STEMS = ("vocals", "drums", "bass", "other")
STREAMS = {"drums": 1, "bass": 2, "other": 3, "vocals": 4}
SUFFIX = ".stem.mp4"
MIXTURE = "mixture.wav"
TRAIN_FOLDERS, TEST_FOLDER = ("train", "valid"), "test"
VALIDATION = frozenset(
    {
        "ANiMAL - Rockshow",
        "Actions - One Minute Smile",
        "Alexander Ross - Goodbye Bolero",
        "Clara Berry And Wooldog - Waltz For My Victims",
        "Fergessen - Nos Palpitants",
        "James May - On The Line",
        "Johnny Lokke - Promises & Lies",
        "Leaf - Summerghost",
        "Meaxic - Take A Step",
        "Patrick Talbot - A Reason To Leave",
        "Skelpolu - Human Mistakes",
        "Traffic Experiment - Sirens",
        "Triviul - Angelsaint",
        "Young Griffo - Pennies",
    }
)


class MUSDB18(Dataset):
    """The songs on disk, in either edition."""

    name = "musdb18"
    title = "MUSDB18"
    license = "for educational purposes only; most songs CC BY-NC-SA, a few all rights reserved"
    commercial_use = False
    citation = "Rafii, Liutkus, Stöter, Mimilakis, Bittner: The MUSDB18 corpus for music separation, 2017"
    source = "https://zenodo.org/records/1117372 (MUSDB18), https://zenodo.org/records/3338373 (MUSDB18-HQ)"
    manual_steps = (
        "1. Download musdb18.zip from https://zenodo.org/records/1117372 (or musdb18hq.zip from "
        "https://zenodo.org/records/3338373, larger and quicker to train from).\n"
        "2. Unpack it into the folder musdb18 of your data folder, so that musdb18/train and musdb18/test hold "
        "the songs."
    )
    expected_counts: ClassVar[Mapping[str, Mapping[str, int]]] = {"official": {"train": 86, "valid": 14, "test": 50}}

    def index(self, root: Path) -> list[Clip]:
        """Return every song on disk, by name; see the base class."""
        return [clip for clip, _ in _songs(Path(root))]

    def splits(self, root: Path) -> dict[str, dict[str, Split]]:
        """Return the side of each song under the official split; see the base class."""
        return {"official": {clip.id: _side(clip.id, folder) for clip, folder in _songs(Path(root))}}

    def paths(self, clip: Clip) -> tuple[Path, ...]:
        """Return the one file of a song, or its mixture and stems."""
        if clip.path.name.endswith(SUFFIX):
            return (clip.path,)
        return (clip.path, *(clip.path.parent / clip.labels[stem] for stem in STEMS))


def _side(song: str, folder: str) -> Split:
    if folder == TEST_FOLDER:
        return "test"
    return "valid" if song in VALIDATION else "train"


def _songs(root: Path) -> list[tuple[Clip, str]]:
    """Return every song with the folder that it stands in.

    Raises:
        DataError: there is none, or one stands on both sides.
    """
    found: dict[str, tuple[Clip, str]] = {}
    for folder in (*TRAIN_FOLDERS, TEST_FOLDER):
        for clip in _in_folder(_tree(root) / folder):
            known = found.setdefault(clip.id, (clip, folder))
            if (known[1] == TEST_FOLDER) != (folder == TEST_FOLDER):
                raise DataError(f"{clip.path}: the song {clip.id!r} stands in {known[1]}/ too; remove one of them")
    if not found:
        raise DataError(
            f"{root / 'train'}: no songs <song>{SUFFIX}, and no folders <song>/ with {MIXTURE} and the stems; "
            "`carrara download musdb18` says how to get them"
        )
    return [found[song] for song in sorted(found)]


def _in_folder(folder: Path) -> list[Clip]:
    if not folder.is_dir():
        return []
    songs: dict[str, Clip] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.name.endswith(SUFFIX) and path.is_file():
            song = path.name.removesuffix(SUFFIX)
            songs.setdefault(song, _clip(song, path, {stem: f"stream:{number}" for stem, number in STREAMS.items()}))
        elif path.is_dir():
            songs[path.name] = _clip(path.name, path / MIXTURE, {stem: f"{stem}.wav" for stem in STEMS})
    return list(songs.values())


def _clip(song: str, path: Path, labels: dict[str, str]) -> Clip:
    return Clip(id=song, path=path, group=song, labels={stem: labels[stem] for stem in STEMS})


def _tree(root: Path) -> Path:
    """Return the folder that holds the sides: the root, or the one folder below it that an archive was unpacked to."""
    below = sorted(path.parent for path in root.glob(f"*/{TEST_FOLDER}")) if root.is_dir() else []
    return next((folder for folder in (root, *below) if (folder / TEST_FOLDER).is_dir()), root)


DATASET = MUSDB18()
