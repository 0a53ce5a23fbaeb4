"""MTG-Jamendo: 55,525 whole tracks (3,764 h) with uploaders' tags of genre, instrument, mood and theme.

Bogdanov, Won, Tovstogan, Porter and Serra (2019); Creative Commons music of jamendo.com. Facts: benchmark.md 1.3,
counted again over the lists themselves. "raw_30s" means longer than 30 s: tracks last 30 s to 69 min.

Layout as distributed: a repository with `data/splits/split-0/autotagging_<kind>-<train, validation or test>.tsv`, kinds
genre, instrument, moodtheme and top50tags; tables with tabs, a tag a column from the sixth on. Met as well: the
repository in `mtg-jamendo-dataset/` (MARBLE), the tables in `split-0/` or in the root, and those of one kind alone
(mirdata), which then is the only split. Sound comes in 100 folders named by the last two digits of the number:
`48/948.low.mp3` (`audio-low`: mono, 156 GB) or `48/948.mp3` (`audio`: 320 kbit/s, 508 GB). They stand in `audio-low/`,
`audio/` (each also in `raw_30s/`), `audios/` (mirdata) or in the root. A copy is read in one quality: `.low.mp3` where
there are any, as MARBLE does, else `.mp3`, from the first of those folders that has some; sound in the others is
`extra` to `check`.

Splits `genre`, `instrument`, `mood-theme` and `top50` are the official split-0 of each kind:

    genre       32,572 / 11,043 / 11,479    87 tags    2,213 /   714 /   808 h
    instrument  14,395 /  5,466 /  5,115    40 tags      935 /   337 /   357 h
    mood-theme   9,949 /  3,802 /  4,231    56 tags      611 /   223 /   261 h
    top50       32,136 / 10,888 / 11,356    50 tags    2,184 /   704 /   801 h

A track that stands in several is one clip and has the same side in all. Labels are `genre`, `instrument`, `mood-theme`
and `top50`, lists of tags, each where the track stands in that split, and `seconds`, the length that the lists tell; a
file may differ from it by 1.5 s. Tags are without their prefix (`genre---rock` is `rock`): no two kinds of the top 50
share a name. The id is the track's number, the group its artist; no artist is on two sides.

Known faults: 465 tracks have a twin to the byte under another id (mtg-jamendo-dataset#52), which `check` names where
the files are there; instruments are what uploaders wrote, and noisy (#61).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from carrara.core.clip import Clip, Split
from carrara.core.download import Remote
from carrara.core.errors import DataError
from carrara.core.paths import data_home
from carrara.data._base import Dataset

ROWS = {"genre": "genre", "instrument": "instrument", "mood-theme": "moodtheme", "top50": "top50tags"}
PREFIXES = {
    "genre": ("genre",),
    "instrument": ("instrument",),
    "mood-theme": ("mood/theme",),
    "top50": ("genre", "instrument", "mood/theme"),
}
WORDS: Mapping[Split, str] = {"train": "train", "valid": "validation", "test": "test"}
HEAD = ("TRACK_ID", "ARTIST_ID", "ALBUM_ID", "PATH", "DURATION", "TAGS")
LISTS = "data/splits/split-0"
LIST_FOLDERS = (LISTS, f"mtg-jamendo-dataset/{LISTS}", "splits/split-0", "split-0", ".")
SUFFIXES = (".low.mp3", ".mp3")
SOUND_FOLDERS = ("audio-low", "raw_30s/audio-low", "audio", "raw_30s/audio", "audios", ".")
NAMES = ("mtg-jamendo", "mtg-jamendo-dataset", "MTG")
TOLERANCE_SECONDS = 1.5
COMMIT = "1b4fa8c32e076c73b5175c1703ae805b4109309d"
SUMS = {
    "genre-train": "c1cddb195ef94a07e67e227bf38e2a79389c1820950702b8c8894a2096f21e54",
    "genre-validation": "3e203b4c573db6ec63a06c7066cf678dcf673a68ad5694c8fed22637c270dbcf",
    "genre-test": "cf917388eebfa7d17d363c2fca037e2379ac027e31aa6dbe92e8dbf409ac5098",
    "instrument-train": "f844a85f0b40bb31a5d5b448ddfc10a68d7b38ecc760673d23df2bd6e7ca0f4c",
    "instrument-validation": "a5060020013ac5ba65c6470ee83fc2a9785db1fe554b55065de08aa9b0cca70d",
    "instrument-test": "8c1ab86f3212b6484106baf2e78f70dd5520b917607487ac98999adbd5d7ab1a",
    "moodtheme-train": "e5e9e798364b34bd241b773e5011809b24429edf471f27cf21dd8181077ba2d4",
    "moodtheme-validation": "ecaa279367153476884d84d686479e566234cef1814bd6892a8755ba0a550dbf",
    "moodtheme-test": "4341b5586bb3e5a80a882ce9ef33cb8b1bdaa7df856246ecc5de188dfe1cf394",
    "top50tags-train": "6dee445ddd1901286184c2059d3d5eef7486f083ae80de9011705f852a850dde",
    "top50tags-validation": "4f5f0f0a7662f523b45727476f67d799d6e98151b2c585a8e94e19d980ad93c1",
    "top50tags-test": "3ede06a35e6cb27e1dbe8cfc84708a607622e30e5cd0a7199fce6c081124bc35",
}
AGAIN = "`carrara download mtg-jamendo` gives it"


class MTGJamendo(Dataset):
    """The tracks of split-0's four kinds."""

    name = "mtg-jamendo"
    title = "MTG-Jamendo"
    license = "sound: Creative Commons, track by track (audio_licenses.txt); annotations: CC BY-NC-SA 4.0"
    commercial_use = False
    citation = (
        "Bogdanov, Won, Tovstogan, Porter, Serra: The MTG-Jamendo Dataset for Automatic Music Tagging, "
        "ML4MD workshop, ICML 2019"
    )
    source = "https://github.com/MTG/mtg-jamendo-dataset (lists by commit; its script gets the sound, no login)"
    remotes = tuple(
        Remote(
            url=f"https://raw.githubusercontent.com/MTG/mtg-jamendo-dataset/{COMMIT}/{LISTS}/autotagging_{name}.tsv",
            path=f"{LISTS}/autotagging_{name}.tsv",
            sha256=sha256,
        )
        for name, sha256 in SUMS.items()
    )
    manual_steps = (
        "1. git clone https://github.com/MTG/mtg-jamendo-dataset, and install its scripts/requirements.txt.\n"
        "2. mkdir -p mtg-jamendo/audio-low in the folder of the datasets; 156 GB, and room to unpack.\n"
        "3. In the clone: python3 scripts/download/download.py --dataset raw_30s --type audio-low \\\n"
        "       <folder of the datasets>/mtg-jamendo/audio-low --unpack --remove\n"
        "   The tracks are then mtg-jamendo/audio-low/48/948.low.mp3 and so on.\n"
        "4. carrara check mtg-jamendo"
    )
    expected_counts: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "genre": {"train": 32572, "valid": 11043, "test": 11479},
        "instrument": {"train": 14395, "valid": 5466, "test": 5115},
        "mood-theme": {"train": 9949, "valid": 3802, "test": 4231},
        "top50": {"train": 32136, "valid": 10888, "test": 11356},
    }

    def root(self, data_dir: Path | None = None) -> Path:
        """Return the folder below `data_dir`, one of `NAMES`; or `data_dir` itself if it is named so."""
        base = Path(data_dir) if data_dir else data_home()
        if base.name in NAMES:
            return base
        return next((base / name for name in NAMES if (base / name).is_dir()), base / self.name)

    def index(self, root: Path) -> list[Clip]:
        """Return every track of the lists by rising number; see the base class."""
        folder, suffix = _sounds(Path(root))
        return [
            Clip(
                id=str(track.number),
                path=folder / f"{_folder(track.number)}/{track.number}{suffix}",
                group=track.artist,
                labels={**track.tags, "seconds": track.seconds},
            )
            for track in sorted(_tracks(Path(root)), key=lambda track: track.number)
        ]

    def splits(self, root: Path) -> dict[str, dict[str, Split]]:
        """Return the side of each track for each row whose lists are there; see the base class."""
        found: dict[str, dict[str, Split]] = {row: {} for row in ROWS}
        for track in _tracks(Path(root)):
            for row, side in track.sides.items():
                found[row][str(track.number)] = side
        return {row: sides for row, sides in found.items() if sides}

    def clips(self, root: Path, split: str) -> list[Clip]:
        """Return the tracks of a split; see the base class."""
        for path in _files(Path(root), split).values() if split in ROWS else ():
            if not path.is_file():
                raise DataError(f"{path}: not there; {AGAIN}")
        return super().clips(root, split)

    def expected_seconds(self, clip: Clip) -> tuple[float, float] | None:
        """Return the length that the lists tell, 1.5 s less and more; see the base class."""
        seconds = clip.labels["seconds"]
        return seconds - TOLERANCE_SECONDS, seconds + TOLERANCE_SECONDS


@dataclass
class _Track:
    """What the lists tell of a track; `tags` and `sides` grow list by list."""

    number: int
    artist: str
    seconds: float
    tags: dict[str, Any] = field(default_factory=dict)
    sides: dict[str, Split] = field(default_factory=dict)


def _files(root: Path, row: str) -> dict[Split, Path]:
    """Return the three lists of a row, there or not."""
    known = (root / name for name in LIST_FOLDERS)
    folder = next((folder for folder in known if any(folder.glob("autotagging_*-*.tsv"))), root / LISTS)
    return {side: folder / f"autotagging_{ROWS[row]}-{word}.tsv" for side, word in WORDS.items()}


def _tracks(root: Path) -> list[_Track]:
    """Return the tracks of the rows whose lists are there."""
    files = {row: _files(root, row) for row in ROWS}
    there = [row for row, paths in files.items() if any(path.is_file() for path in paths.values())]
    found: dict[tuple[str, ...], _Track] = {}
    first: dict[str, tuple[str, ...]] = {}
    for row in there or ROWS:
        names: dict[str, str] = {}
        for side, path in files[row].items():
            for line, values in _lines(path):
                about = tuple(values[:5])
                if about not in found:
                    found[about] = _track(values, f"{path}, line {line}")
                    if first.setdefault(values[0], about) != about:
                        raise DataError(f"{path}, line {line}: {values[0]} is otherwise in another line; {AGAIN} whole")
                track = found[about]
                if row in track.sides:
                    raise DataError(f"{path}, line {line}: {values[0]} stands in {track.sides[row]} already")
                track.sides[row] = side
                track.tags[row] = [
                    names.get(tag) or _named(tag, row, names, f"{path}, line {line}") for tag in values[5:]
                ]
    return list(found.values())


def _track(values: list[str], where: str) -> _Track:
    named = re.fullmatch("track_([0-9]+)", values[0])
    number = int(named[1]) if named else -1
    if values[3] != f"{_folder(number)}/{number}.mp3":
        raise DataError(f"{where}: {values[0]!r} and {values[3]!r} should be like track_0000948 and 48/948.mp3")
    if not re.fullmatch("artist_[0-9]+", values[1]):
        raise DataError(f"{where}: ARTIST_ID is {values[1]!r}, should be like artist_000087")
    if not re.fullmatch(r"[0-9]+(?:\.[0-9]+)?", values[4]) or float(values[4]) == 0:
        raise DataError(f"{where}: DURATION is {values[4]!r}, should be seconds")
    return _Track(number, values[1], float(values[4]))


def _named(printed: str, row: str, names: dict[str, str], where: str) -> str:
    """Return a tag without its prefix, and remember it."""
    prefix, _, name = printed.partition("---")
    if prefix not in PREFIXES[row] or not name:
        raise DataError(f"{where}: a tag is {printed!r}, should be like {PREFIXES[row][0]}---name")
    return names.setdefault(printed, name)


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of each line after the heads and its values, six at least."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DataError(f"{path}: not there; {AGAIN}") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {problem}; {AGAIN} whole") from None
    if not lines or tuple(lines[0].split("\t")) != HEAD:
        raise DataError(f"{path}, line 1: not the columns {', '.join(HEAD)}; {AGAIN} whole")
    for number, line in enumerate(lines[1:], start=2):
        values = line.split("\t")
        if len(values) >= len(HEAD):
            yield number, values
        elif line.strip():
            raise DataError(f"{path}, line {number}: {len(values)} values, should be six or more; {AGAIN} whole")


def _folder(number: int) -> str:
    return f"{number % 100:02d}"


def _sounds(root: Path) -> tuple[Path, str]:
    """Return the folder of the sound and the end of its files' names; the low quality's where there is none."""
    for suffix in SUFFIXES:
        for name in SOUND_FOLDERS:
            if any((root / name).glob(f"[0-9][0-9]/*{suffix}")):
                return root / name, suffix
    return root / SOUND_FOLDERS[0], SUFFIXES[0]


DATASET = MTGJamendo()
