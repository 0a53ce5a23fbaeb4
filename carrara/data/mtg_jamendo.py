"""MTG-Jamendo: 55,525 whole tracks (3,764 h) with uploaders' tags of genre, instrument, mood and theme.

Creative Commons music of jamendo.com [bogdanov2019]. The facts are in [notes/benchmark §1.3], counted again on the
lists. "raw_30s" means longer than 30 s: tracks last 30 s to 69 min.

    mtg-jamendo/
      data/splits/split-0/autotagging_{genre,instrument,moodtheme,top50tags}-{train,validation,test}.tsv
      audio-low/48/948.low.mp3      100 folders by the last two digits of the number; mono, 156 GB
      audio/48/948.mp3              or these: 320 kbit/s, 508 GB

The repository may also be in `mtg-jamendo-dataset/` (MARBLE), the lists in `splits/split-0/`, `split-0/` or the root;
with the lists of one kind only (mirdata), that is the only split scheme. Audio is also found in `raw_30s/`, `audios/`
(mirdata) or the root. A copy is read in one quality: `.low.mp3` if there are any, as in MARBLE, else `.mp3`, from the
first folder that has some; `check` lists the audio in other folders as extra.

Split schemes, the official split-0 of each kind:

    genre       32,572 / 11,043 / 11,479    87 tags    2,213 /   714 /   808 h
    instrument  14,395 /  5,466 /  5,115    40 tags      935 /   337 /   357 h
    mood-theme   9,949 /  3,802 /  4,231    56 tags      611 /   223 /   261 h
    top50       32,136 / 10,888 / 11,356    50 tags    2,184 /   704 /   801 h

A track in several schemes is one clip and has the same split in all. The id is its number, the group its artist; no
artist is in two splits. Labels: `genre`, `instrument`, `mood-theme` and `top50`, lists of tags without their prefix
(`genre---rock` is `rock`), each where the track is in that scheme, and `seconds`, the duration in the lists, from which
a file may differ by 1.5 s.

Known faults: 465 tracks have a byte-identical twin under another id (mtg-jamendo-dataset#52), which `check` lists;
instruments are noisy (#61).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from carrara.core.clip import Clip, Split
from carrara.core.download import Remote
from carrara.core.errors import DataError
from carrara.data._base import Dataset
from carrara.data._tables import read_lines

KINDS = {"genre": "genre", "instrument": "instrument", "mood-theme": "moodtheme", "top50": "top50tags"}
PREFIXES = {
    "genre": ("genre",),
    "instrument": ("instrument",),
    "mood-theme": ("mood/theme",),
    "top50": ("genre", "instrument", "mood/theme"),
}
LIST_SPLITS: Mapping[Split, str] = {"train": "train", "valid": "validation", "test": "test"}
HEADER = ("TRACK_ID", "ARTIST_ID", "ALBUM_ID", "PATH", "DURATION", "TAGS")
LISTS = "data/splits/split-0"
LIST_FOLDERS = (LISTS, f"mtg-jamendo-dataset/{LISTS}", "splits/split-0", "split-0", ".")
SUFFIXES = (".low.mp3", ".mp3")
AUDIO_FOLDERS = ("audio-low", "raw_30s/audio-low", "audio", "raw_30s/audio", "audios", ".")
TOLERANCE_SECONDS = 1.5
COMMIT = "1b4fa8c32e076c73b5175c1703ae805b4109309d"
LISTS_SHA256 = {
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
CURE = "run `carrara download mtg-jamendo`"


class MTGJamendo(Dataset):
    """The tracks of the four kinds of split-0; the layout and splits are in the module's docstring."""

    name = "mtg-jamendo"
    folder_names = ("mtg-jamendo-dataset", "MTG")
    title = "MTG-Jamendo"
    license = "audio: Creative Commons, track by track (audio_licenses.txt); annotations: CC BY-NC-SA 4.0"
    commercial_use = False
    citation = (
        "Bogdanov, Won, Tovstogan, Porter, Serra: The MTG-Jamendo Dataset for Automatic Music Tagging, "
        "ML4MD workshop, ICML 2019"
    )
    source = "https://github.com/MTG/mtg-jamendo-dataset (lists by commit; its script downloads the audio, no login)"
    remotes = tuple(
        Remote(
            url=f"https://raw.githubusercontent.com/MTG/mtg-jamendo-dataset/{COMMIT}/{LISTS}/autotagging_{name}.tsv",
            path=f"{LISTS}/autotagging_{name}.tsv",
            sha256=sha256,
        )
        for name, sha256 in LISTS_SHA256.items()
    )
    manual_steps = (
        "1. git clone https://github.com/MTG/mtg-jamendo-dataset, and install its scripts/requirements.txt.\n"
        "2. mkdir -p mtg-jamendo/audio-low in the folder of the datasets; 156 GB, and space to unpack.\n"
        "3. In the clone: python3 scripts/download/download.py --dataset raw_30s --type audio-low \\\n"
        "       <folder of the datasets>/mtg-jamendo/audio-low --unpack --remove\n"
        "   The tracks are then mtg-jamendo/audio-low/48/948.low.mp3 and so on.\n"
        "4. carrara check mtg-jamendo"
    )
    group_names: ClassVar[Mapping[str, str]] = dict.fromkeys(("genre", "instrument", "mood-theme", "top50"), "artist")
    expected_counts: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "genre": {"train": 32572, "valid": 11043, "test": 11479},
        "instrument": {"train": 14395, "valid": 5466, "test": 5115},
        "mood-theme": {"train": 9949, "valid": 3802, "test": 4231},
        "top50": {"train": 32136, "valid": 10888, "test": 11356},
    }

    def index(self, root: Path) -> list[Clip]:
        """Return every track of the lists by ascending number; see the base class."""
        locations = [(Path(root) / name, suffix) for suffix in SUFFIXES for name in AUDIO_FOLDERS]
        folder, suffix = next(
            ((folder, suffix) for folder, suffix in locations if any(folder.glob(f"[0-9][0-9]/*{suffix}"))),
            locations[0],
        )
        return [
            Clip(
                id=str(track.number),
                path=folder / f"{track.number % 100:02d}/{track.number}{suffix}",
                group=track.artist,
                labels={**track.tags, "seconds": track.seconds},
            )
            for track in sorted(_read_tracks(Path(root)), key=lambda track: track.number)
        ]

    def splits(self, root: Path) -> dict[str, dict[str, Split]]:
        """Return the split of each track for each scheme whose lists exist; see the base class."""
        schemes: dict[str, dict[str, Split]] = {scheme: {} for scheme in KINDS}
        for track in _read_tracks(Path(root)):
            for scheme, split in track.splits.items():
                schemes[scheme][str(track.number)] = split
        return {scheme: splits for scheme, splits in schemes.items() if splits}

    def clips(self, root: Path, split_scheme: str) -> list[Clip]:
        """Return the tracks of a split scheme, all of whose lists must exist; see the base class."""
        for path in _list_paths(Path(root), split_scheme).values() if split_scheme in KINDS else ():
            if not path.is_file():
                raise DataError(f"{path}: missing; {CURE}")
        return super().clips(root, split_scheme)

    def expected_seconds(self, clip: Clip) -> tuple[float, float] | None:
        """Return the duration in the lists minus and plus 1.5 s; see the base class."""
        seconds = clip.labels["seconds"]
        return seconds - TOLERANCE_SECONDS, seconds + TOLERANCE_SECONDS


@dataclass
class _Track:
    """One track; `tags` and `splits`, by split scheme, grow list by list."""

    number: int
    artist: str
    seconds: float
    tags: dict[str, Any] = field(default_factory=dict)
    splits: dict[str, Split] = field(default_factory=dict)


def _list_paths(root: Path, scheme: str) -> dict[Split, Path]:
    """Return the paths of the three lists of a scheme, whether they exist or not."""
    folders = (root / name for name in LIST_FOLDERS)
    folder = next((folder for folder in folders if any(folder.glob("autotagging_*-*.tsv"))), root / LISTS)
    return {split: folder / f"autotagging_{KINDS[scheme]}-{name}.tsv" for split, name in LIST_SPLITS.items()}


def _read_tracks(root: Path) -> list[_Track]:
    """Return the tracks of the schemes whose lists exist."""
    paths = {scheme: _list_paths(root, scheme) for scheme in KINDS}
    existing = [scheme for scheme in KINDS if any(path.is_file() for path in paths[scheme].values())]
    tracks: dict[str, _Track] = {}
    columns_of: dict[str, list[str]] = {}
    for scheme in existing or KINDS:
        tag_names: dict[str, str] = {}
        for split, path in paths[scheme].items():
            lines = read_lines(path, CURE)
            if tuple(next(lines, (1, []))[1]) != HEADER:
                raise DataError(f"{path}, line 1: not the columns {', '.join(HEADER)}; {CURE}")
            for line, values in lines:
                location = f"{path}, line {line}"
                if len(values) < len(HEADER):
                    raise DataError(f"{location}: {len(values)} values, should be six or more; {CURE}")
                name, columns = values[0], values[:5]
                if name not in tracks:
                    tracks[name], columns_of[name] = _parse_track(columns, location), columns
                elif columns_of[name] != columns:
                    raise DataError(f"{location}: {name} has other values in another line; {CURE}")
                track = tracks[name]
                if scheme in track.splits:
                    raise DataError(f"{location}: {name} is already in {track.splits[scheme]}")
                track.splits[scheme] = split
                for tag in values[5:]:
                    if tag not in tag_names:
                        prefix, _, tag_name = tag.partition("---")
                        if prefix not in PREFIXES[scheme] or not tag_name:
                            example = f"{PREFIXES[scheme][0]}---name"
                            raise DataError(f"{location}: a tag is {tag!r}, should be like {example}")
                        tag_names[tag] = tag_name
                track.tags[scheme] = [tag_names[tag] for tag in values[5:]]
    return list(tracks.values())


def _parse_track(columns: list[str], location: str) -> _Track:
    name, artist, _, path, duration = columns
    match = re.fullmatch("track_([0-9]+)", name)
    number = int(match[1]) if match else -1
    if path != f"{number % 100:02d}/{number}.mp3":
        raise DataError(f"{location}: {name!r} and {path!r} should be like track_0000948 and 48/948.mp3")
    if not re.fullmatch("artist_[0-9]+", artist):
        raise DataError(f"{location}: ARTIST_ID is {artist!r}, should be like artist_000087")
    if not re.fullmatch(r"[0-9]+(?:\.[0-9]+)?", duration) or float(duration) == 0:
        raise DataError(f"{location}: DURATION is {duration!r}, should be seconds")
    return _Track(number, artist, float(duration))


DATASET = MTGJamendo()
