"""SHS100K: 108,511 recordings of 8,856 songs, performed by many, from Second Hand Songs [xu2018].

    shs100k/                         or SHS100K, SHS100K2
      list                           set, version, title, performer, address, status; tabs; or in meta/
      SHS100K-TRAIN, -VAL, -TEST     set and version; a tab; or in meta/
      audio/<set>_<version>.mp3      or .flac, .wav, .m4a, .ogg, .opus, .webm

The audio is at the addresses of `list` (videos), as far as they still exist, and is not distributed. `list` may be
missing.

Labels: `song`, the number of the set, and with `list` `title` and `artist`. Split scheme `official`. The lists of
87,091 / 10,884 / 10,547 recordings have song 5982 in train and valid and song 8110 in valid and test; here what is in
two lists is in the later one, 87,085 / 10,879 / 10,547. The group is the song.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from carrara.core.clip import Clip, Split
from carrara.core.errors import DataError
from carrara.data._base import Dataset
from carrara.data._tables import read_lines

LISTS: dict[Split, str] = {"train": "SHS100K-TRAIN", "valid": "SHS100K-VAL", "test": "SHS100K-TEST"}
AUDIO_SUFFIXES = (".mp3", ".flac", ".wav", ".m4a", ".ogg", ".opus", ".webm")
CURE = "`git clone https://github.com/NovaFrost/SHS100K2` has it in meta/"


class SHS100K(Dataset):
    """The recordings with their songs; the layout and splits are in the module's docstring."""

    name = "shs100k"
    folder_names = ("SHS100K", "SHS100K2")
    title = "SHS100K"
    license = "audio: videos of commercial recordings, no licence; lists: none stated"
    commercial_use = None
    citation = "Xu, Chen, Yang: Key-Invariant Convolutional Neural Network Toward Cover Song Identification, ICME 2018"
    source = "lists: https://github.com/NovaFrost/SHS100K2; audio: not distributed"
    manual_steps = (
        "1. git clone https://github.com/NovaFrost/SHS100K2 shs100k, in the folder of the datasets\n"
        "2. Put the audio of the addresses in meta/list, as far as you have it, at shs100k/audio/<set>_<version>.mp3\n"
        "   (or .flac, .wav, .m4a, .ogg, .opus, .webm), the first two columns of that file\n"
        "3. carrara check shs100k; carrara bench --partial measures on what is there"
    )
    expected_counts: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "official": {"train": 87_085, "valid": 10_879, "test": 10_547}
    }
    group_names: ClassVar[Mapping[str, str]] = {"official": "song"}

    def index(self, root: Path) -> list[Clip]:
        """Return the recordings of the three lists, in their order; see the base class."""
        folder = _lists_folder(root)
        titles = {}
        if (folder / "list").is_file():
            for number, values in read_lines(folder / "list", CURE):
                if len(values) < 4:
                    raise DataError(f"{folder / 'list'}, line {number}: {len(values)} values, fewer than 4; {CURE}")
                titles[f"{values[0]}_{values[1]}"] = values[2], values[3]
        # One look at the folder: a hundred thousand times seven would be slow.
        audio = Path(root) / "audio"
        files = {path.stem: path for path in audio.glob("*") if path.suffix.lower() in AUDIO_SUFFIXES}
        clips = []
        for id in _read_splits(root):
            song = id.partition("_")[0]
            title, artist = titles.get(id, ("", ""))
            labels = {"song": song, **({"title": title, "artist": artist} if id in titles else {})}
            clips.append(Clip(id=id, path=files.get(id, audio / f"{id}.mp3"), group=song, labels=labels))
        return clips

    def splits(self, root: Path) -> dict[str, dict[str, Split]]:
        """Return the split of each recording; see the base class."""
        return {"official": _read_splits(root)}


def _lists_folder(root: Path) -> Path:
    meta = Path(root) / "meta"
    return meta if (meta / LISTS["train"]).is_file() else Path(root)


def _read_splits(root: Path) -> dict[str, Split]:
    """Return the split of each recording by its id: the last of the lists that have it."""
    splits: dict[str, Split] = {}
    for split, name in LISTS.items():
        path = _lists_folder(root) / name
        for number, values in read_lines(path, CURE):
            if len(values) != 2 or not all(value.strip().isdecimal() for value in values):
                raise DataError(f"{path}, line {number}: should be the numbers of a set and a version; {CURE}")
            splits["_".join(value.strip() for value in values)] = split
    return splits


DATASET = SHS100K()
