"""Labels over time from text files beside the audio: beats, chords, sections and melodies, in the usual formats.

`song.wav` may have `song.beats`, `song.chords`, `song.structure`, `song.melody`, or `song.lab` or `song.txt`, whose
kind follows from what is in them. Blanks, tabs or commas separate columns; times are in seconds with a decimal point;
lines that begin with # or % do not count.

- beats: `time`, or `time beat` with the beat's number in its bar, 1 at a downbeat;
- chords, in Harte's syntax [harte2005], and sections: `start end label`, or `time label` up to the next line's time,
  where the last line is the end;
- melody: `start end hertz`, or `time hertz` with 0 or less where there is none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from carrara.core.clip import Clip
from carrara.core.errors import DataError
from carrara.data._tables import read_text, split_lines

KINDS = ("beats", "chords", "structure", "melody")
OPEN_SUFFIXES = (".lab", ".txt")  # whose content says what they are
SUFFIXES = (*(f".{kind}" for kind in KINDS), *OPEN_SUFFIXES)
SEGMENTS = "segments"  # chords or structure: known once all files of a folder are read
MIN_CHORDS = 0.9  # of the distinct labels, for segments to be chords: A, B and C are sections as well
SEPARATOR = re.compile(r"[\s,;]+")
CURE = "write it in UTF-8"


def has_annotations(audio: Path) -> bool:
    """Return whether a text file beside an audio file could be its annotations."""
    return any(audio.with_suffix(suffix).is_file() for suffix in SUFFIXES)


def add_annotations(clips: Sequence[Clip]) -> None:
    """Add the labels `beats`, `downbeats`, `chords`, `structure` and `melody` that files beside the audio hold.

    Labels that a clip already has are kept. The times of a clip that is a segment of its file count from its start.

    Raises:
        DataError: a file is not in its format; the message names the line.
    """
    read: dict[Path, dict[str, list[Any]]] = {}
    for clip in clips:
        if clip.path not in read:
            read[clip.path] = _read_beside(clip.path)
    names = {segment[2] for labels in read.values() for segment in labels.get(SEGMENTS, [])}
    are_chords = sum(map(_is_chord, names)) >= MIN_CHORDS * len(names)
    for clip in clips:
        for kind, values in read[clip.path].items():
            name = kind if kind != SEGMENTS else "chords" if are_chords else "structure"
            clip.labels.setdefault(name, _cut(values, clip))


def _is_chord(name: str) -> bool:
    from carrara.metrics.chords import encode_chord

    try:
        encode_chord(name)
    except ValueError:
        return False
    return True


def _read_beside(audio: Path) -> dict[str, list[Any]]:
    """Return what the text files beside an audio file hold, by label."""
    labels: dict[str, list[Any]] = {}
    for suffix in SUFFIXES if audio.name else ():  # a table may name a folder, which `check` reports
        path = audio.with_suffix(suffix)
        if not path.is_file():
            continue
        lines = [
            (number, line.strip())
            for number, line in enumerate(split_lines(read_text(path, CURE)), start=1)
            if line.strip() and not line.startswith(("#", "%"))
        ]
        if suffix == ".txt" and not (lines and _is_time(SEPARATOR.split(lines[0][1])[0])):
            continue  # lyrics or notes
        rows = [_parse_line(path, number, line) for number, line in lines]
        kind = suffix.removeprefix(".")
        if suffix in OPEN_SUFFIXES:
            kind = "beats" if all(_is_beat(row) for row in rows) else SEGMENTS
        if kind == "beats":
            times = sorted(row[0] for row in rows)
            found: dict[str, list[Any]] = {"beats": times}
            if rows and all(len(row) > 1 and _is_beat(row[:2]) for row in rows):
                found["downbeats"] = sorted(row[0] for row in rows if float(row[1]) == 1)
        else:
            found = {kind: _to_segments(path, lines, rows, kind)}
        labels = found | labels
    return labels


def _is_time(text: str) -> bool:
    try:
        return 0 <= float(text) < float("inf")
    except ValueError:
        return False


def _parse_line(path: Path, number: int, line: str) -> list[Any]:
    """Return a line as its times and at most one text: [time], [time, text] or [start, end, text]."""
    first, *rest = SEPARATOR.split(line, maxsplit=1)
    if not _is_time(first):
        raise DataError(f"{path}, line {number}: does not begin with a time in seconds, such as 1.5")
    second, *last = SEPARATOR.split(rest[0], maxsplit=1) if rest and rest[0] else [""]
    if last and last[0] and _is_time(second):
        return [float(first), float(second), last[0]]
    return [float(first), rest[0]] if second else [float(first)]


def _is_beat(row: Sequence[Any]) -> bool:
    return len(row) == 1 or (len(row) == 2 and re.fullmatch(r"\d{1,2}(\.0*)?", str(row[1])) is not None)


def _to_segments(path: Path, lines: list[tuple[int, str]], rows: list[list[Any]], kind: str) -> list[list[Any]]:
    """Return rows as [start, end, label], labels of a melody in Hz."""
    if rows and all(len(row) < 3 for row in rows):
        # A pitch curve's last moment lasts as long as the one before; the last line of other files is the end.
        if kind == "melody" and len(rows) > 1:
            rows = [*rows, [2 * rows[-1][0] - rows[-2][0]]]
        rows = [[row[0], after[0], *row[1:]] for row, after in pairwise(rows)]
    segments = []
    for (number, line), row in zip(lines, rows):
        expected = "hertz" if kind == "melody" else "label"
        if len(row) != 3 or row[1] < row[0]:
            raise DataError(f"{path}, line {number}: {line[:40]!r} is not `start end {expected}` with times in seconds")
        if kind == "melody":
            try:
                row[2] = float(row[2])
            except ValueError:
                raise DataError(f"{path}, line {number}: {row[2][:40]!r} is not a frequency in Hz") from None
            if row[2] <= 0:
                continue
        segments.append(row)
    return segments


def _cut(values: list[Any], clip: Clip) -> list[Any]:
    """Return times or segments within a clip, counted from its start."""
    if not clip.start and clip.duration is None:
        return values
    length = float("inf") if clip.duration is None else clip.duration
    cut: list[Any] = []
    for value in values:
        if not isinstance(value, list):
            if clip.start <= value < clip.start + length:
                cut.append(value - clip.start)
        else:
            start, end = max(value[0] - clip.start, 0.0), min(value[1] - clip.start, length)
            if start < end:
                cut.append([start, end, value[2]])
    return cut
