"""Chords1217: 1,217 songs with their chords over time, as MARBLE v2 lists them.

The songs are those of Isophonics, Billboard, RWC and USPop whose chords were collected by [humphrey2015]; the lists are
MARBLE v2's, one JSON object a line. The audio is commercial and not distributed.

    chords1217/                            or Chords1217
      Chords1217.{train,val,test}.jsonl    audio_path, label, duration, sample_rate, …
      audio/<id>.mp3                       or .flac, .wav

An entry of `label` has start_time, end_time and chord_str, in seconds and in Harte's syntax [harte2005]. Of
`audio_path` the file's name counts, below `audio/`; another of these endings is taken where that file does not exist.
Neighbours with the same chord are joined.

Label: `chords`, a list of [start, end, chord]. Split scheme: `marble`. Artists are not listed, so there are no groups.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from carrara.core.clip import Clip, Split
from carrara.core.errors import DataError
from carrara.core.strict_json import parse_json_object
from carrara.data._base import Dataset
from carrara.data._tables import read_text, split_lines

LISTS: dict[Split, str] = {"train": "train", "valid": "val", "test": "test"}
AUDIO_SUFFIXES = (".mp3", ".flac", ".wav")
CURE = "put MARBLE v2's Chords1217.{train,val,test}.jsonl there"


class Chords1217(Dataset):
    """The songs with their chords; the layout and splits are in the module's docstring."""

    name = "chords1217"
    folder_names = ("Chords1217",)
    title = "Chords1217"
    license = "audio: commercial recordings, no licence; annotations: of the four collections"
    commercial_use = None
    citation = "Humphrey, Bello: Four Timely Insights on Automatic Chord Estimation, ISMIR 2015"
    source = "lists: MARBLE v2; audio: not distributed"
    manual_steps = (
        "Neither lists nor audio can be downloaded without a login. Put MARBLE v2's lists and your copies of the\n"
        "recordings below the folder chords1217:\n"
        "1. chords1217/Chords1217.{train,val,test}.jsonl\n"
        "2. chords1217/audio/<file name of audio_path>\n"
        "3. carrara check chords1217"
    )

    def index(self, root: Path) -> list[Clip]:
        """Return the songs of the three lists, in their order; see the base class."""
        return [clip for clips in _read_lists(Path(root)).values() for clip in clips]

    def splits(self, root: Path) -> dict[str, dict[str, Split]]:
        """Return the split of each song; see the base class."""
        return {"marble": {clip.id: split for split, clips in _read_lists(Path(root)).items() for clip in clips}}


def _read_lists(root: Path) -> dict[Split, list[Clip]]:
    lists: dict[Split, list[Clip]] = {}
    seen: set[str] = set()
    for split, name in LISTS.items():
        path = root / f"Chords1217.{name}.jsonl"
        lists[split] = []
        for number, line in enumerate(split_lines(read_text(path, CURE)), start=1):
            if not line.strip():
                continue
            try:
                song = parse_json_object(line.encode())
                file_name = Path(str(song["audio_path"])).name
                chords = _join([[e["start_time"], e["end_time"], e["chord_str"]] for e in song["label"]])
            except (ValueError, KeyError, TypeError) as problem:
                reason = f"lacks {problem}" if isinstance(problem, KeyError) else str(problem)
                raise DataError(f"{path}, line {number}: not a song with audio_path and label ({reason})") from None
            id = Path(file_name).stem
            if id in seen:
                raise DataError(f"{path}, line {number}: {id} is in the lists twice")
            seen.add(id)
            named = root / "audio" / file_name
            others = (named.with_suffix(suffix) for suffix in AUDIO_SUFFIXES)
            found = next((each for each in (named, *others) if each.is_file()), named)
            lists[split].append(Clip(id=id, path=found, labels={"chords": chords}))
    return lists


def _join(segments: list[list[Any]]) -> list[list[Any]]:
    """Return segments ascending, neighbours with the same chord joined, without empty ones."""
    joined: list[list[Any]] = []
    for start, end, chord in sorted(segments, key=lambda segment: float(segment[0])):
        if joined and joined[-1][2] == chord and abs(joined[-1][1] - start) < 1e-3:
            joined[-1][1] = float(end)
        elif end > start:
            joined.append([float(start), float(end), str(chord)])
    return joined


DATASET = Chords1217()
