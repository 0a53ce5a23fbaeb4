"""EmoMusic, the 1000 songs of MediaEval 2013: 744 clips of 45 s with listeners' valence and arousal.

Soleymani and others (CrowdMM 2013) took songs from the Free Music Archive; of 1,000, 744 are left without doubles, each
rated by ten or more people: mean arousal and valence on a scale of 1 to 9 (seen: 1.6 to 8.4 and 1.6 to 8.1). Facts:
benchmark.md 1.6, counted again over the rows that JukeMIR republishes.

Layout as distributed: `clips_45sec.tar.gz` gives `clips_45seconds/<id>.mp3` (44.6 to 45.04 s, ids 2 to 1000 with gaps),
`annotations.tar.gz` gives `songs_info.csv` and `static_annotations.csv` (values with blanks around them) and four files
of ratings over time, which no task here reads. Met as well: the clips in `clips_45sec/clips_45seconds/`,
`clips_45sec/` or the root itself, and the annotations beside the clips. A clip is its whole file; where it begins in
its song is kept in seconds as `segment_start`. The column is headed min.sec, and 0.5 there means 50 s, not 5.

Split `artist`, JukeMIR's, which MARBLE uses: MediaEval's evaluation set is the test side; the development set is parted
by artist: lower case, ASCII letters and blanks only, runs of blanks made one, SHA-1 mod 10, 0 to 7 train, 8 and 9
valid: 504 / 115 / 125. Train and valid share no artist so written. MediaEval did not part by artist: of 409 artists 44
are in train and test and 9 in valid and test, so 53 leaks are known (43 of 411 if names are compared as printed).
MARBLE scales both targets by the 619 development clips; here the training clips do, and R² is the same for either.

The university's server may be gone one day. The sums below are those of JukeMIR's list of assets.
"""

from __future__ import annotations

import csv
import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from carrara.core.clip import Clip, Split
from carrara.core.download import Remote
from carrara.core.errors import DataError
from carrara.data._base import Dataset

CLIPS = ("clips_45seconds", "clips_45sec/clips_45seconds", "clips_45sec", ".")
ANNOTATIONS = ("annotations", ".", "annotations/annotations")
SONGS, RATINGS = "songs_info.csv", "static_annotations.csv"
START, SET = "start of the segment (min.sec)", "Mediaeval 2013 set"
SONG_COLUMNS = ("song_id", "Artist", "Song title", START, "Genre", SET)
RATING_COLUMNS = ("song_id", "mean_arousal", "mean_valence")
AGAIN = "`carrara download emomusic` gives it whole"
HOST = "http://cvml.unige.ch/databases/emoMusic"


class EmoMusic(Dataset):
    """The clips and the two static ratings of each."""

    name = "emomusic"
    title = "EmoMusic"
    license = "sound: Creative Commons, song by song (Free Music Archive); annotations: none stated"
    commercial_use = None
    citation = "Soleymani, Caro, Schmidt, Sha, Yang: 1000 Songs for Emotional Analysis of Music, CrowdMM 2013"
    source = f"{HOST}/ (no login; the host may be gone)"
    remotes = (
        Remote(
            url=f"{HOST}/annotations.tar.gz",
            path="annotations.tar.gz",
            sha256="e0cb0b06e1b0ce7f04b1572fc410937699b7fad9dae67ddaa745f06cda4b0b33",
            unpack="annotations",
        ),
        Remote(
            url=f"{HOST}/clips_45sec.tar.gz",
            path="clips_45sec.tar.gz",
            sha256="3994a5d5fefc27f9540d1a69cd7f1294c68e6cb311ce49765021e2e9c7a1057b",
            unpack=".",
        ),
    )
    expected_counts: ClassVar[Mapping[str, Mapping[str, int]]] = {"artist": {"train": 504, "valid": 115, "test": 125}}
    known_leaks: ClassVar[Mapping[str, int]] = {"artist": 53}
    seconds = (44.5, 45.2)

    def index(self, root: Path) -> list[Clip]:
        """Return every rated clip, by rising id; see the base class."""
        folder = _sound_folder(Path(root))
        return [_clip(folder, number, song, rating) for number, song, rating in _annotations(Path(root))]

    def splits(self, root: Path) -> dict[str, dict[str, Split]]:
        """Return the side of each clip under the split by artist; see the base class."""
        return {"artist": {str(number): _side(song) for number, song, _ in _annotations(Path(root))}}


@dataclass(frozen=True)
class _Row:
    """One line of a table, which can name itself in an error."""

    path: Path
    line: int
    values: Mapping[str, str]

    def rating(self, column: str) -> float:
        try:
            value = float(self.values[column])
        except ValueError:
            value = math.nan
        if not 1 <= value <= 9:
            raise self.wrong(column, "a number from 1 to 9")
        return value

    def wrong(self, column: str, wanted: str) -> DataError:
        return DataError(f"{self.path}, line {self.line}: {column} is {self.values[column]!r}, should be {wanted}")


def artist_name(printed: str) -> str:
    """Return an artist as the split compares them: ASCII letters in lower case, words parted by one blank."""
    kept = (letter for letter in printed.lower() if letter.isascii() and (letter.isalpha() or letter.isspace()))
    return " ".join("".join(kept).split())


def artist_side(printed: str) -> Split:
    """Return the side of a development clip by its artist: SHA-1 mod 10, 0 to 7 train, 8 and 9 valid."""
    return "train" if int(hashlib.sha1(artist_name(printed).encode()).hexdigest(), 16) % 10 < 8 else "valid"


def seconds_of(min_sec: str) -> float:
    """Return the seconds that `minutes.seconds` means; one digit of seconds is the tens, as 0.5 is 50 s.

    Raises:
        ValueError: it is not of that form.
    """
    found = re.fullmatch(r"([0-9]+)(?:\.([0-9]{1,2}))?", min_sec)
    seconds = int((found[2] or "0").ljust(2, "0")) if found else 60
    if found is None or seconds >= 60:
        raise ValueError(f"{min_sec!r} is not minutes.seconds")
    return 60.0 * int(found[1]) + seconds


def _side(song: _Row) -> Split:
    part = song.values[SET]
    if part not in ("development", "evaluation"):
        raise song.wrong(SET, "development or evaluation")
    return "test" if part == "evaluation" else artist_side(song.values["Artist"])


def _clip(folder: Path, number: int, song: _Row, rating: _Row) -> Clip:
    try:
        start = seconds_of(song.values[START])
    except ValueError:
        raise song.wrong(START, "minutes.seconds") from None
    return Clip(
        id=str(number),
        path=folder / f"{number}.mp3",
        group=artist_name(song.values["Artist"]) or None,
        labels={
            "arousal": rating.rating("mean_arousal"),
            "valence": rating.rating("mean_valence"),
            "genre": song.values["Genre"],
            "artist": song.values["Artist"],
            "title": song.values["Song title"],
            "segment_start": start,
        },
    )


def _annotations(root: Path) -> list[tuple[int, _Row, _Row]]:
    """Return each song's number, row and ratings, by rising number; both tables must tell of the same songs."""
    folder = next((root / name for name in ANNOTATIONS if (root / name / SONGS).is_file()), root / ANNOTATIONS[0])
    songs, ratings = _table(folder / SONGS, SONG_COLUMNS), _table(folder / RATINGS, RATING_COLUMNS)
    for number in sorted(set(songs) ^ set(ratings)):
        has, lacks = (SONGS, RATINGS) if number in songs else (RATINGS, SONGS)
        raise DataError(f"{folder / lacks}: lacks song {number}, which {has} has; {AGAIN}")
    return [(number, songs[number], ratings[number]) for number in sorted(songs)]


def _table(path: Path, columns: tuple[str, ...]) -> dict[int, _Row]:
    """Return the rows of a table by song number; blanks around heads and values are dropped."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, [value.strip() for value in row]) for row in reader]
    except FileNotFoundError:
        raise DataError(f"{path}: not there; {AGAIN}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise DataError(f"{path}: cannot be read as a table: {problem}; {AGAIN}") from None
    heads = lines[0][1] if lines else []
    if absent := [column for column in columns if column not in heads]:
        raise DataError(f"{path}, line 1: lacks the column {absent[0]!r}; {AGAIN}")
    found: dict[int, _Row] = {}
    for line, values in lines[1:]:
        if not any(values):
            continue
        if len(values) != len(heads):
            raise DataError(f"{path}, line {line}: {len(values)} values under {len(heads)} heads; {AGAIN}")
        row = _Row(path, line, dict(zip(heads, values)))
        if not re.fullmatch("[0-9]+", row.values["song_id"]):
            raise row.wrong("song_id", "a whole number")
        number = int(row.values["song_id"])
        if number in found:
            raise DataError(f"{path}, line {line}: song {number} stands on line {found[number].line} already")
        found[number] = row
    return found


def _sound_folder(root: Path) -> Path:
    return next((root / name for name in CLIPS if any((root / name).glob("*.mp3"))), root / CLIPS[0])


DATASET = EmoMusic()
