"""Harmonix Set: 912 popular songs with beats, downbeats and functional segments [nieto2019].

    harmonix/                                 or harmonixset, harmonixset-main
      dataset/metadata.csv                    File,Title,Artist,Release,Duration,BPM,…
      dataset/beats_and_downbeats/<file>.txt  time, beat in the bar, bar; tabs
      dataset/segments/<file>.txt             time and section a line, the last one "end"
      audio/<file>.mp3                        or .wav, .flac

`dataset/` may be missing from the paths. The audio is commercial and not distributed.

Labels: `structure`, a list of [start, end, section] with sections reduced to intro, verse, chorus, bridge,
instrumental, outro and silence (a name that contains one of their words, such as prechorus or verse2; others are
`other`), `beats`, `downbeats`, `tempo` (the BPM of the table). Split scheme `songs`: songs in the order of the table,
ten at a time: seven train, one valid, two test, all songs of an artist where the first one is. The group is the artist.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

from carrara.core.clip import Clip, Split
from carrara.core.errors import DataError
from carrara.data._base import Dataset
from carrara.data._tables import parse_seconds, read_beats, read_table, read_text, split_lines

AUDIO_SUFFIXES = (".mp3", ".wav", ".flac")
SECTIONS = ("intro", "verse", "chorus", "bridge", "instrumental", "outro", "silence", "other")
WORDS = {
    "intro": "intro", "prechorus": "verse", "pre-chorus": "verse", "chorus": "chorus", "refrain": "chorus",
    "verse": "verse", "bridge": "bridge", "inst": "instrumental", "solo": "instrumental", "break": "instrumental",
    "outro": "outro", "silence": "silence",
}  # fmt: skip
SPLIT_CYCLE: tuple[Split, ...] = (*("train",) * 7, "valid", "test", "test")
COLUMNS = ("File", "Artist", "BPM")
CURE = "`git clone https://github.com/urinieto/harmonixset` has it"


class Harmonix(Dataset):
    """The songs with beats and segments; the layout and splits are in the module's docstring."""

    name = "harmonix"
    folder_names = ("harmonixset", "harmonixset-main")
    title = "Harmonix Set"
    license = "audio: commercial recordings, no licence; annotations: MIT"
    commercial_use = None
    citation = "Nieto, McCallum, Davies, Robertson, Stark, Egozy: The Harmonix Set, ISMIR 2019"
    source = "annotations: https://github.com/urinieto/harmonixset; audio: not distributed"
    group_names: ClassVar[Mapping[str, str]] = {"songs": "artist"}
    manual_steps = (
        "1. git clone https://github.com/urinieto/harmonixset harmonix, in the folder of the datasets\n"
        "2. Put your copies of the recordings at harmonix/audio/<File of metadata.csv>.mp3 (or .wav, .flac), cut as\n"
        "   the set describes, so that beats fit\n"
        "3. carrara check harmonix"
    )

    def index(self, root: Path) -> list[Clip]:
        """Return the songs in the order of the table; see the base class."""
        base = _annotations(Path(root))
        clips = []
        for row in read_table(base / "metadata.csv", COLUMNS, CURE, delimiter=",", has_quotes=True):
            file = row.values["File"]
            named = [Path(root) / "audio" / f"{file}{suffix}" for suffix in AUDIO_SUFFIXES]
            labels: dict[str, Any] = {
                "structure": _read_segments(base / "segments" / f"{file}.txt"),
                **read_beats(base / "beats_and_downbeats" / f"{file}.txt", CURE),
            }
            try:
                labels["tempo"] = float(row.values["BPM"])
            except ValueError:
                raise row.error("BPM", "a number") from None
            path = next((each for each in named if each.is_file()), named[0])
            clips.append(Clip(id=file, path=path, group=row.values["Artist"] or None, labels=labels))
        return clips

    def splits(self, root: Path) -> dict[str, dict[str, Split]]:
        """Return the split of each song; an artist's songs are together. See the base class."""
        by_artist: dict[str, Split] = {}
        splits: dict[str, Split] = {}
        for number, clip in enumerate(self.index(root)):
            splits[clip.id] = by_artist.setdefault(clip.group or clip.id, SPLIT_CYCLE[number % len(SPLIT_CYCLE)])
        return {"songs": splits}


def _annotations(root: Path) -> Path:
    return root / "dataset" if (root / "dataset").is_dir() else root


def _read_segments(path: Path) -> list[list[Any]]:
    """Return [start, end, section] of a file of times and names whose last line is the end."""
    marks = []
    for number, line in enumerate(split_lines(read_text(path, CURE)), start=1):
        values = line.split(maxsplit=1)
        if values:
            marks.append(
                (parse_seconds(values[0], f"{path}, line {number}"), values[1].strip().lower() if values[1:] else "")
            )
    if len(marks) < 2:
        raise DataError(f"{path}: fewer than two lines of time and section")
    return [[start, end, reduce_section(name)] for (start, name), (end, _) in pairwise(marks) if end > start]


def reduce_section(name: str) -> str:
    """Return which of `SECTIONS` a written name is."""
    return next((section for word, section in WORDS.items() if word in name.lower()), "other")


DATASET = Harmonix()
