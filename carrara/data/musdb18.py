"""MUSDB18: 150 whole songs, 9.8 h, in four stems: vocals, drums, bass and other; 44.1 kHz stereo.

100 songs to train on and 50 to test on, from DSD100, MedleyDB and others [rafii2017]. The facts are in
[notes/benchmark §1.9]. No file lists the songs, so the index is what is on disk, and the counts are checked.

    musdb18/                                MUSDB18: five AAC streams, 0 mixture, 1 drums, 2 bass, 3 other, 4 vocals
      train/<song>.stem.mp4
      test/<song>.stem.mp4
    musdb18/                                MUSDB18-HQ, or what `musdbconvert` writes
      train/<song>/{mixture,vocals,drums,bass,other}.wav
      test/<song>/…

A song that exists in both forms is read from its folder, which is faster. A folder `valid/`, which MARBLE v1 expects,
counts as `train/`. In the lossy stems the mixture is not the exact sum; scores on the two editions differ slightly, and
their records have different fingerprints.

Split scheme `official`: test is the test folder, valid the 14 songs of the training folder that `mus.yaml` of
sigsep-mus-db names, train the other 86. The id and the group are the song's name, `<artist> - <title>`: the official
lists split songs, not artists (Patrick Talbot is in train and in valid). Labels: for each stem `stream:<number>` or the
name of a file beside the mixture (`carrara/audio/stems.py`).
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
    """The songs on disk, in either edition; the layout and splits are in the module's docstring."""

    name = "musdb18"
    title = "MUSDB18"
    license = "for educational purposes only; most songs CC BY-NC-SA, a few all rights reserved"
    commercial_use = False
    citation = "Rafii, Liutkus, Stöter, Mimilakis, Bittner: The MUSDB18 corpus for music separation, 2017"
    source = "https://zenodo.org/records/1117372 (MUSDB18), https://zenodo.org/records/3338373 (MUSDB18-HQ)"
    manual_steps = (
        "1. Download musdb18.zip from https://zenodo.org/records/1117372 (or musdb18hq.zip from "
        "https://zenodo.org/records/3338373, larger and faster to train from).\n"
        "2. Unpack it into the folder musdb18 of your data folder, so that musdb18/train and musdb18/test hold "
        "the songs."
    )
    group_names: ClassVar[Mapping[str, str]] = {"official": "song"}
    expected_counts: ClassVar[Mapping[str, Mapping[str, int]]] = {"official": {"train": 86, "valid": 14, "test": 50}}

    def index(self, root: Path) -> list[Clip]:
        """Return every song on disk, by name; see the base class."""
        return [clip for clip, _ in _find_songs(Path(root))]

    def splits(self, root: Path) -> dict[str, dict[str, Split]]:
        """Return the split of each song under `official`; see the base class."""
        splits: dict[str, Split] = {}
        for clip, folder in _find_songs(Path(root)):
            splits[clip.id] = "test" if folder == TEST_FOLDER else "valid" if clip.id in VALIDATION else "train"
        return {"official": splits}

    def paths(self, clip: Clip) -> tuple[Path, ...]:
        """Return the single file of a song, or its mixture and stems."""
        if clip.path.name.endswith(SUFFIX):
            return (clip.path,)
        return (clip.path, *(clip.path.parent / clip.labels[stem] for stem in STEMS))


def _find_songs(root: Path) -> list[tuple[Clip, str]]:
    """Return every song and its folder, train, valid or test.

    Raises:
        DataError: there is no song, or one is in both the training and the test folder.
    """
    # An archive may have been unpacked into a folder of its own.
    subfolders = sorted(path.parent for path in root.glob(f"*/{TEST_FOLDER}")) if root.is_dir() else []
    base = next((path for path in (root, *subfolders) if (path / TEST_FOLDER).is_dir()), root)
    songs: dict[str, tuple[Clip, str]] = {}
    for folder in (*TRAIN_FOLDERS, TEST_FOLDER):
        for clip in _list_songs(base / folder):
            _, other_folder = songs.setdefault(clip.id, (clip, folder))
            if (other_folder == TEST_FOLDER) != (folder == TEST_FOLDER):
                raise DataError(f"{clip.path}: the song {clip.id!r} is also in {other_folder}/; remove one of them")
    if not songs:
        raise DataError(
            f"{root / 'train'}: no songs <song>{SUFFIX}, and no folders <song>/ with {MIXTURE} and the stems; "
            "`carrara download musdb18` lists the steps"
        )
    return [songs[name] for name in sorted(songs)]


def _list_songs(folder: Path) -> list[Clip]:
    paths: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith("."):
            continue
        if path.name.endswith(SUFFIX) and path.is_file():
            paths.setdefault(path.name.removesuffix(SUFFIX), path)
        elif path.is_dir():
            paths[path.name] = path / MIXTURE
    clips = []
    for name, path in paths.items():
        is_folder = path.name == MIXTURE
        labels = {stem: f"{stem}.wav" if is_folder else f"stream:{STREAMS[stem]}" for stem in STEMS}
        clips.append(Clip(id=name, path=path, group=name, labels=labels))
    return clips


DATASET = MUSDB18()
