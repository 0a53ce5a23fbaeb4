"""Music4All: 109,269 excerpts of 30 s with genres, tags and language [santana2020]; MERT-95M-public's corpus.

    music4all/                     or Music4All
      id_information.csv           id, artist, song, album_name; tabs, as in all tables
      id_genres.csv                id, genres; commas between them
      id_tags.csv                  id, tags; commas between them
      id_lang.csv                  id, lang
      audios/<id>.mp3

The authors send the dataset on request; nothing can be downloaded without. Tables other than the first may be missing.
`carrara pretrain … --corpus music4all` trains on its audio.

Labels: `genres`, `tags`, `language`, `artist`. Split schemes: `all`, all train, and `artist`: there is no official one,
so the SHA-1 of the artist's name modulo 10 decides, 0 to 7 train, 8 valid, 9 test. The group is the artist.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from carrara.core.clip import Clip, Split
from carrara.data._base import Dataset
from carrara.data._tables import read_table

LISTS = {"id_genres.csv": ("genres", "genres"), "id_tags.csv": ("tags", "tags"), "id_lang.csv": ("lang", "language")}
CURE = "the authors send it on request, see https://sites.google.com/view/contact4music4all"


class Music4All(Dataset):
    """The excerpts with genres, tags and language; the layout and splits are in the module's docstring."""

    name = "music4all"
    folder_names = ("Music4All",)
    title = "Music4All"
    license = "commercial recordings; for research, by agreement with the authors"
    commercial_use = False
    citation = "Santana et al.: Music4All: A New Music Database and Its Applications, IWSSIP 2020"
    source = "https://sites.google.com/view/contact4music4all"
    manual_steps = (
        "1. Ask the authors for it: https://sites.google.com/view/contact4music4all\n"
        "2. Unpack it in the folder music4all, so that there are music4all/id_information.csv and\n"
        "   music4all/audios/*.mp3\n"
        "3. carrara check music4all"
    )
    expected_counts: ClassVar[Mapping[str, Mapping[str, int]]] = {"all": {"train": 109_269}}
    group_names: ClassVar[Mapping[str, str]] = {"all": "artist", "artist": "artist"}
    seconds = (25.0, 35.0)

    def index(self, root: Path) -> list[Clip]:
        """Return the excerpts in the order of id_information.csv; see the base class."""
        root = Path(root)
        labels_of: dict[str, dict[str, Any]] = {}
        for file, (column, label) in LISTS.items():
            if (root / file).is_file():
                for row in read_table(root / file, ("id", column), CURE):
                    value = row.values[column]
                    values = [each.strip() for each in value.split(",") if each.strip()]
                    labels_of.setdefault(row.values["id"], {})[label] = value if label == "language" else values
        clips = []
        for row in read_table(root / "id_information.csv", ("id", "artist"), CURE):
            id, artist = row.values["id"], row.values["artist"]
            if not id or "/" in id:
                raise row.error("id", "the name of an audio file")
            labels = {"artist": artist, **labels_of.get(id, {})}
            clips.append(Clip(id=id, path=root / "audios" / f"{id}.mp3", group=artist or None, labels=labels))
        return clips

    def corpus_folder(self, root: Path) -> Path:
        """Return the folder of the excerpts; see the base class."""
        return Path(root) / "audios"

    def splits(self, root: Path) -> dict[str, dict[str, Split]]:
        """Return the split of each excerpt; see the base class."""
        clips = self.index(root)
        return {
            "all": dict.fromkeys((clip.id for clip in clips), "train"),
            "artist": {clip.id: _split_of(clip.group or clip.id) for clip in clips},
        }


def _split_of(artist: str) -> Split:
    number = int(hashlib.sha1(artist.encode()).hexdigest(), 16) % 10
    return "train" if number < 8 else "valid" if number == 8 else "test"


DATASET = Music4All()
