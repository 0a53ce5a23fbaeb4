"""SALAMI: 1,359 recordings of many styles with their sections, by one or two annotators [smith2011].

    salami/                                                  or salami-data-public, SALAMI
      annotations/<id>/parsed/textfile1_functions.txt        time and function a line, the last one "End"; or textfile2
      metadata/metadata.csv                                  SONG_ID,SOURCE,…,SONG_DURATION,…,ARTIST,…,CLASS,GENRE,…
      audio/<id>.mp3                                         or .flac, .wav

The audio is not distributed; the part of the Internet Archive has addresses in metadata/id_index_internetarchive.csv.

Labels: `structure`, a list of [start, end, section] with the functions of the first annotator (of the second where
there is no first) reduced to the sections of the Harmonix Set (`carrara/data/harmonix.py`); coda and fade-out are
outro, interlude is instrumental. A function without a name is `other`. `class` is popular, jazz, classical, world or
Live_Music_Archive. Split scheme `songs`: recordings in the order of their numbers, ten at a time: seven train, one
valid, two test, all of an artist where the first one is. The group is the artist.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

from carrara.core.clip import Clip, Split
from carrara.core.errors import DataError
from carrara.data._base import Dataset
from carrara.data._tables import parse_seconds, read_table, read_text, split_lines
from carrara.data.harmonix import AUDIO_SUFFIXES, SPLIT_CYCLE, reduce_section

FUNCTIONS = {"coda": "outro", "fade-out": "outro", "interlude": "instrumental", "out": "outro"}
COLUMNS = ("SONG_ID", "ARTIST", "CLASS")
CURE = "`git clone https://github.com/DDMAL/salami-data-public` has it"


class Salami(Dataset):
    """The recordings with their sections; the layout and splits are in the module's docstring."""

    name = "salami"
    folder_names = ("salami-data-public", "SALAMI")
    title = "SALAMI"
    license = "audio: commercial recordings and the Internet Archive's, no licence; annotations: CC0"
    commercial_use = None
    citation = "Smith et al.: Design and Creation of a Large-Scale Database of Structural Annotations, ISMIR 2011"
    source = "annotations: https://github.com/DDMAL/salami-data-public; audio: not distributed"
    manual_steps = (
        "1. git clone https://github.com/DDMAL/salami-data-public salami, in the folder of the datasets\n"
        "2. Put your copies of the recordings at salami/audio/<SONG_ID>.mp3 (or .flac, .wav);\n"
        "   metadata/id_index_internetarchive.csv has addresses for a part of them\n"
        "3. carrara check salami; carrara bench --partial measures on what is there"
    )
    expected_counts: ClassVar[Mapping[str, Mapping[str, int]]] = {}
    group_names: ClassVar[Mapping[str, str]] = {"songs": "artist"}

    def index(self, root: Path) -> list[Clip]:
        """Return the annotated recordings in the order of their numbers; see the base class."""
        root = Path(root)
        clips = {}
        for row in read_table(root / "metadata/metadata.csv", COLUMNS, CURE, delimiter=",", has_quotes=True):
            id = row.values["SONG_ID"]
            if not id.isdecimal():
                raise row.error("SONG_ID", "a number")
            parsed = root / "annotations" / id / "parsed"
            texts = [parsed / f"textfile{annotator}_functions.txt" for annotator in (1, 2)]
            text = next((path for path in texts if path.is_file()), None)
            if text is None:
                continue
            named = [root / "audio" / f"{id}{suffix}" for suffix in AUDIO_SUFFIXES]
            path = next((each for each in named if each.is_file()), named[0])
            labels: dict[str, Any] = {"structure": _read_functions(text), "class": row.values["CLASS"]}
            clips[int(id)] = Clip(id=id, path=path, group=row.values["ARTIST"] or None, labels=labels)
        if not clips:
            raise DataError(f"{root / 'annotations'}: no <id>/parsed/textfile1_functions.txt in it; {CURE}")
        return [clips[number] for number in sorted(clips)]

    def splits(self, root: Path) -> dict[str, dict[str, Split]]:
        """Return the split of each recording; an artist's recordings are together. See the base class."""
        by_artist: dict[str, Split] = {}
        splits: dict[str, Split] = {}
        for number, clip in enumerate(self.index(root)):
            splits[clip.id] = by_artist.setdefault(clip.group or clip.id, SPLIT_CYCLE[number % len(SPLIT_CYCLE)])
        return {"songs": splits}


def _read_functions(path: Path) -> list[list[Any]]:
    """Return [start, end, section] of a file of times and functions whose last line is the end."""
    marks: list[tuple[float, str]] = []
    for number, line in enumerate(split_lines(read_text(path, CURE)), start=1):
        if values := line.split(maxsplit=1):
            name = values[1].strip().lower() if values[1:] else ""
            marks.append((parse_seconds(values[0], f"{path}, line {number}"), FUNCTIONS.get(name, name)))
    if len(marks) < 2:
        raise DataError(f"{path}: fewer than two lines of time and function")
    marks.sort(key=lambda mark: mark[0])
    return [[start, end, reduce_section(name)] for (start, name), (end, _) in pairwise(marks) if end > start]


DATASET = Salami()
