"""EmoMusic: 744 clips of 45 s with valence and arousal rated by listeners (MediaEval 2013's 1000 songs).

The songs are from the Free Music Archive; of 1,000, 744 are left without duplicates, each rated by ten or more people
[soleymani2013]. The facts are in [notes/benchmark §1.6], counted again on the annotations that JukeMIR republishes
[castellon2021].

    emomusic/
      clips_45seconds/<id>.mp3              44.6 to 45.04 s, ids 2 to 1000 with gaps
      annotations/songs_info.csv            artist, title, set, …
      annotations/static_annotations.csv    mean ratings from 1 to 9

The clips are also found in `clips_45sec/clips_45seconds/`, `clips_45sec/` or the root, the annotations in
`annotations/annotations/` or the root.

Labels: `arousal`, `valence`, `genre`, `artist`, `title`, and `segment_start`, the start of the clip in its song in
seconds. The column is headed min.sec, where 0.5 is 50 s.

Split scheme `artist`, JukeMIR's, which MARBLE uses: MediaEval's evaluation set is test; the development set is split by
artist into 504 / 115 / 125. Train and valid share no artist. MediaEval did not split by artist, so 53 of 409 artists
leak: 44 are in train and test, 9 in valid and test.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from carrara.core.clip import Clip, Split
from carrara.core.download import Remote
from carrara.core.errors import DataError
from carrara.data._base import Dataset
from carrara.data._tables import Row, read_table

CLIP_FOLDERS = ("clips_45seconds", "clips_45sec/clips_45seconds", "clips_45sec", ".")
ANNOTATION_FOLDERS = ("annotations", ".", "annotations/annotations")
SONGS, RATINGS = "songs_info.csv", "static_annotations.csv"
START, SET = "start of the segment (min.sec)", "Mediaeval 2013 set"
SONG_COLUMNS = ("song_id", "Artist", "Song title", START, "Genre", SET)
RATING_COLUMNS = ("song_id", "mean_arousal", "mean_valence")
CURE = "run `carrara download emomusic`"
HOST = "https://cvml.unige.ch/databases/emoMusic"


class EmoMusic(Dataset):
    """The clips and the two static ratings of each; the layout and splits are in the module's docstring."""

    name = "emomusic"
    title = "EmoMusic"
    license = "audio: Creative Commons, song by song (Free Music Archive); annotations: none stated"
    commercial_use = None
    citation = "Soleymani, Caro, Schmidt, Sha, Yang: 1000 Songs for Emotional Analysis of Music, CrowdMM 2013"
    source = f"{HOST}/ (no login; the host may be gone)"
    # The university publishes no hashes; these are from JukeMIR's list of assets.
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
    group_names: ClassVar[Mapping[str, str]] = {"artist": "artist"}
    known_leaks: ClassVar[Mapping[str, int]] = {"artist": 53}
    seconds = (44.5, 45.2)

    def index(self, root: Path) -> list[Clip]:
        """Return every rated clip by ascending id; see the base class."""
        folders = [Path(root) / name for name in CLIP_FOLDERS]
        folder = next((folder for folder in folders if any(folder.glob("*.mp3"))), folders[0])
        return [_parse_clip(folder, number, song, rating) for number, song, rating in _read_annotations(Path(root))]

    def splits(self, root: Path) -> dict[str, dict[str, Split]]:
        """Return the split of each clip under `artist`; see the base class."""
        splits: dict[str, Split] = {}
        for number, song, _ in _read_annotations(Path(root)):
            if song.values[SET] not in ("development", "evaluation"):
                raise song.error(SET, "development or evaluation")
            is_test = song.values[SET] == "evaluation"
            splits[str(number)] = "test" if is_test else artist_split(song.values["Artist"])
        return {"artist": splits}


def artist_name(printed: str) -> str:
    """Return an artist's name as the split compares it: lower-case ASCII letters, words separated by one blank."""
    kept = (letter for letter in printed.lower() if letter.isascii() and (letter.isalpha() or letter.isspace()))
    return " ".join("".join(kept).split())


def artist_split(printed: str) -> Split:
    """Return the split of a development clip by its artist: SHA-1 modulo 10, 0 to 7 train, 8 and 9 valid."""
    return "train" if int(hashlib.sha1(artist_name(printed).encode()).hexdigest(), 16) % 10 < 8 else "valid"


def parse_min_sec(min_sec: str) -> float:
    """Return `minutes.seconds` in seconds; a single digit of seconds counts tens, so 0.5 is 50 s.

    Raises:
        ValueError: it is not of that form.
    """
    match = re.fullmatch(r"([0-9]+)(?:\.([0-9]{1,2}))?", min_sec)
    seconds = int((match[2] or "0").ljust(2, "0")) if match else 60
    if match is None or seconds >= 60:
        raise ValueError(f"{min_sec!r} is not minutes.seconds")
    return 60.0 * int(match[1]) + seconds


def _parse_clip(folder: Path, number: int, song: Row, rating: Row) -> Clip:
    try:
        start = parse_min_sec(song.values[START])
    except ValueError:
        raise song.error(START, "minutes.seconds") from None
    return Clip(
        id=str(number),
        path=folder / f"{number}.mp3",
        group=artist_name(song.values["Artist"]) or None,
        labels={
            "arousal": _parse_rating(rating, "mean_arousal"),
            "valence": _parse_rating(rating, "mean_valence"),
            "genre": song.values["Genre"],
            "artist": song.values["Artist"],
            "title": song.values["Song title"],
            "segment_start": start,
        },
    )


def _parse_rating(row: Row, column: str) -> float:
    try:
        value = float(row.values[column])
    except ValueError:
        value = math.nan
    if not 1 <= value <= 9:
        raise row.error(column, "a number from 1 to 9")
    return value


def _read_annotations(root: Path) -> list[tuple[int, Row, Row]]:
    """Return each song's number, row and ratings by ascending number.

    Raises:
        DataError: the tables have different songs, or one has a song twice.
    """
    folders = [root / name for name in ANNOTATION_FOLDERS]
    folder = next((folder for folder in folders if (folder / SONGS).is_file()), folders[0])
    tables: list[dict[int, Row]] = []
    for name, columns in ((SONGS, SONG_COLUMNS), (RATINGS, RATING_COLUMNS)):
        by_number: dict[int, Row] = {}
        for row in read_table(folder / name, columns, CURE, delimiter=",", has_quotes=True):
            if not re.fullmatch("[0-9]+", row.values["song_id"]):
                raise row.error("song_id", "a whole number")
            number = int(row.values["song_id"])
            if number in by_number:
                raise DataError(
                    f"{row.path}, line {row.line}: song {number} is already on line {by_number[number].line}"
                )
            by_number[number] = row
        tables.append(by_number)
    songs, ratings = tables
    for number in sorted(set(songs) ^ set(ratings)):
        has, lacks = (SONGS, RATINGS) if number in songs else (RATINGS, SONGS)
        raise DataError(f"{folder / lacks}: lacks song {number}, which {has} has; {CURE}")
    return [(number, songs[number], ratings[number]) for number in sorted(songs)]


DATASET = EmoMusic()
