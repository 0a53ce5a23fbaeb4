"""Covers80: 80 songs, each in two recordings by different artists [ellis2007].

    covers80/
      covers32k/<Song>/<artist>+<album>+<number>-<title>.mp3    32 kbit/s, mono

`coversongs/covers32k/` of the archive is found as well. Every folder is a song, and its recordings are each other's
versions.

Label: `song`, the folder's name. Split scheme `songs`: nothing is trained for retrieval, but the layer is chosen on
other songs than those of the test. Of the folders in alphabetical order each eighth is train, the two after it valid,
the other five test: 20 / 40 / 100 recordings. Published scores search all 160 with a layer that was given, so they are
not comparable. The group is the song.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from carrara.core.clip import Clip, Split
from carrara.core.errors import DataError
from carrara.data._base import Dataset

FOLDERS = ("covers32k", "coversongs/covers32k", "covers80/coversongs/covers32k")
SPLIT_CYCLE: tuple[Split, ...] = ("train", "valid", "valid", "test", "test", "test", "test", "test")


class Covers80(Dataset):
    """The pairs of recordings; the layout and splits are in the module's docstring."""

    name = "covers80"
    folder_names = ("Covers80",)
    title = "Covers80"
    license = "commercial recordings, no licence"
    commercial_use = None
    citation = "Ellis, Poliner: Identifying Cover Songs with Chroma Features and Dynamic Programming, ICASSP 2007"
    source = "http://labrosa.ee.columbia.edu/projects/coversongs/covers80/"
    manual_steps = (
        "Download covers80.tgz from http://labrosa.ee.columbia.edu/projects/coversongs/covers80/ and unpack it in\n"
        "the folder covers80, so that there is covers80/covers32k/<Song>/*.mp3; then: carrara check covers80"
    )
    expected_counts: ClassVar[Mapping[str, Mapping[str, int]]] = {"songs": {"train": 20, "valid": 40, "test": 100}}
    group_names: ClassVar[Mapping[str, str]] = {"songs": "song"}

    def index(self, root: Path) -> list[Clip]:
        """Return the recordings by song; see the base class."""
        folder = next((Path(root) / name for name in FOLDERS if (Path(root) / name).is_dir()), Path(root) / FOLDERS[0])
        clips = [
            Clip(
                id=f"{path.parent.name}/{path.stem}",
                path=path,
                group=path.parent.name,
                labels={"song": path.parent.name},
            )
            for path in sorted(folder.glob("*/*.mp3"))
        ]
        if not clips:
            raise DataError(f"{folder}: no <Song>/*.mp3 in it; `carrara download covers80` says how to get them")
        return clips

    def splits(self, root: Path) -> dict[str, dict[str, Split]]:
        """Return the split of each recording by its song; see the base class."""
        clips = self.index(root)
        songs = {song: number for number, song in enumerate(dict.fromkeys(clip.group for clip in clips))}
        return {"songs": {clip.id: SPLIT_CYCLE[songs[clip.group] % len(SPLIT_CYCLE)] for clip in clips}}


DATASET = Covers80()
