"""MagnaTagATune: 25,863 clips of 29 s of independent music, with 188 tags that players of a game gave.

Law, West, Mandel, Bay and Downie (ISMIR 2009) collected the tags in TagATune; the music is Magnatune's, 230 artists,
as MP3 at 16 kHz, mono, 32 kbit/s, 29.124 s each. Facts: benchmark.md 1.2, counted again over the rows that JukeMIR
republishes.

Layout as distributed: `mp3.zip.001` to `.003` (joined, they are one zip) give 16 folders `0` to `f`; beside them
`annotations_final.csv` (tabs; number, 188 times 0 or 1, path) and `clip_info_final.csv` (tabs, 31,382 rows, 5,519 of
them without a clip). The folders are met below `mp3/` (MARBLE) or `audio/` too, the tables in `annotations/`. Clips
35644, 55753 and 57881 (folders 6, 8 and 9) do not decode: they are no clips here, and their files are `extra` to
`check`; 25,860 are left.

Named splits, by the folder's digit, 0 to b train, c valid, d to f test: `official`, all clips, 18,706 / 1,825 / 5,329,
those without any of the 50 tags too (3,459 / 296 / 997); `cleaned`, without these, 15,247 / 1,529 / 4,332, as Won and
others use it. Scores on the two are not comparable. The group is the artist: no song is on two sides (0 of 5,405, of
5,288 in `cleaned`), but the same 56 of 230 artists are in either split: 40 in train and test, 8 in train and valid, 3
in valid and test, 5 in all three.

The label `tags` holds all of a clip's tags of the 188; words for one thing (`no vocal`, `no vocals`, `no voice`) stay
apart. `TOP_50` is the list of the literature in JukeMIR's order, fixed here since counting leaves three ties. `title`,
`album` and `segment_start` (seconds into the song) are labels as well.

The host has had two names, mirg.city.ac.uk and mi.soi.city.ac.uk. The sums are those of JukeMIR's list of assets.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from itertools import compress
from pathlib import Path
from typing import ClassVar

from carrara.core.archives import unpack
from carrara.core.clip import Clip, Split
from carrara.core.download import Remote, concatenate_files, download
from carrara.core.errors import DataError
from carrara.core.io import write_text
from carrara.core.paths import data_home
from carrara.data._base import Dataset

TOP_50 = (
    "guitar", "classical", "slow", "techno", "strings", "drums", "electronic", "rock", "fast", "piano", "ambient",
    "beat", "violin", "vocal", "synth", "female", "indian", "opera", "male", "singing", "vocals", "no vocals",
    "harpsichord", "loud", "quiet", "flute", "woman", "male vocal", "no vocal", "pop", "soft", "sitar", "solo",
    "man", "classic", "choir", "voice", "new age", "dance", "male voice", "female vocal", "beats", "harp", "cello",
    "no voice", "weird", "country", "metal", "female voice", "choral",
)  # fmt: skip
BROKEN = frozenset({"35644", "55753", "57881"})
NAMES = ("magnatagatune", "MagnaTagATune", "MTT")
SOUNDS = ("mp3", "audio", ".")
TAGS_FILE, INFO_FILE = "annotations_final.csv", "clip_info_final.csv"
FIRST, LAST = "clip_id", "mp3_path"
INFO_COLUMNS = (FIRST, "title", "artist", "album", "segmentStart")
HOST = "https://mirg.city.ac.uk/datasets/magnatagatune"
SUMS = {
    TAGS_FILE: "99b94e95825d4fa576386a5367b9c96e0ec636e9f9c240aceb492f4728f68c3c",
    INFO_FILE: "cb6108a10d3a91f0bfd7d2fbec2382559d15f20c8d28093f14e12162a47a3e78",
}
PARTS = {
    "mp3.zip.001": "f857fe185968773058cc71662c2ef5d8f2d4b7338e3c122cfd52f82dcb9760b9",
    "mp3.zip.002": "fc2e1ec441755556ed1398b1808f1b08b6034372f8bc27394510c0c58cdb52ce",
    "mp3.zip.003": "83a689824c17e82f6eb81cdbc4e4ca239a4cfc1fb41f1a5c80b861caec90450f",
}
AGAIN = "`carrara download magnatagatune` gives it"


class MagnaTagATune(Dataset):
    """The clips that decode, with their tags."""

    name = "magnatagatune"
    title = "MagnaTagATune"
    license = "CC BY-NC-SA 3.0"
    commercial_use = False
    citation = "Law, West, Mandel, Bay, Downie: Evaluation of Algorithms Using Games: the Case of Music Tagging, 2009"
    source = f"{HOST} (no login)"
    remotes = tuple(Remote(f"{HOST}/{name}", name, sha256) for name, sha256 in SUMS.items())
    expected_counts: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "official": {"train": 18_706, "valid": 1_825, "test": 5_329},
        "cleaned": {"train": 15_247, "valid": 1_529, "test": 4_332},
    }
    known_leaks: ClassVar[Mapping[str, int | None]] = {"official": 56, "cleaned": 56}
    seconds = (29.0, 29.3)

    def root(self, data_dir: Path | None = None) -> Path:
        """Return the folder below `data_dir`, one of `NAMES`; or `data_dir` itself if it is named so."""
        base = Path(data_dir) if data_dir else data_home()
        if base.name in NAMES:
            return base
        return next((base / name for name in NAMES if (base / name).is_dir()), base / self.name)

    def download(self, root: Path, size: str | None = None) -> str:
        """Download the tables and the three parts of the sound, join and unpack them below `mp3/`; see the base."""
        left = super().download(root, size)
        archive = Path(root) / "mp3.zip"
        mark = Path(root) / ".mp3.zip.unpacked"
        if not mark.exists():
            parts = [download(Remote(f"{HOST}/{name}", name, sha256), Path(root)) for name, sha256 in PARTS.items()]
            unpack(concatenate_files(parts, archive), Path(root) / SOUNDS[0])
            write_text(mark, HOST + "\n")
            for path in (archive, *parts):
                path.unlink()
        return left

    def index(self, root: Path) -> list[Clip]:
        """Return every annotated clip that decodes, in the order of the annotations; see the base class."""
        info, folder = _info(_table(Path(root), INFO_FILE)), _sounds(Path(root))
        path = _table(Path(root), TAGS_FILE)
        clips = []
        for line, name, sound, tags in _tagged(path):
            if name not in info:
                raise DataError(f"{path}, line {line}: {INFO_FILE} lacks clip {name}; {AGAIN} whole")
            artist, labels = info[name]
            clips.append(Clip(id=name, path=folder / sound, group=artist or None, labels={"tags": tags, **labels}))
        return clips

    def splits(self, root: Path) -> dict[str, dict[str, Split]]:
        """Return the sides by folder, with and without the clips that have none of the 50 tags; see the base class."""
        official: dict[str, Split] = {}
        cleaned: dict[str, Split] = {}
        known = set(TOP_50)
        for _, name, sound, tags in _tagged(_table(Path(root), TAGS_FILE)):
            official[name] = _side(sound)
            if not known.isdisjoint(tags):
                cleaned[name] = official[name]
        return {"official": official, "cleaned": cleaned}


def _side(sound: str) -> Split:
    digit = int(sound[0], 16)
    return "train" if digit < 0xC else "valid" if digit == 0xC else "test"


def _sounds(root: Path) -> Path:
    """Return the first folder with sound in it; where `get` puts it if there is none."""
    known = [root / name for name in SOUNDS]
    return next((folder for folder in known if any(folder.glob("[0-9a-f]/*.mp3"))), known[0])


def _tagged(path: Path) -> Iterator[tuple[int, str, str, list[str]]]:
    """Yield line, id, path of the sound and tags of each clip that decodes."""
    lines = _lines(path)
    _, heads = next(lines, (1, []))
    words = heads[1:-1]
    if heads[:1] != [FIRST] or heads[-1:] != [LAST] or not set(TOP_50) <= set(words):
        raise DataError(f"{path}, line 1: not {FIRST}, the 188 tags and {LAST}; {AGAIN} whole")
    seen: set[str] = set()
    for line, values in lines:
        if len(values) != len(heads):
            raise DataError(f"{path}, line {line}: {len(values)} values under {len(heads)} heads; {AGAIN} whole")
        name, flags, sound = values[0], values[1:-1], values[-1]
        if not re.fullmatch("[0-9]+", name) or name in seen:
            raise DataError(f"{path}, line {line}: {FIRST} is {name!r}, should be a whole number that stands once")
        if not re.fullmatch(r"[0-9a-f]/[^/\\]+\.mp3", sound):
            raise DataError(f"{path}, line {line}: {LAST} is {sound!r}, should be like f/song-30-59.mp3")
        if strange := set(flags) - {"0", "1"}:
            raise DataError(f"{path}, line {line}: a tag is {min(strange)!r}, should be 0 or 1")
        seen.add(name)
        if name not in BROKEN:
            yield line, name, sound, list(compress(words, map("1".__eq__, flags)))


def _info(path: Path) -> dict[str, tuple[str, dict[str, str | float]]]:
    """Return the artist and the labels of each clip besides its tags."""
    lines = _lines(path)
    _, heads = next(lines, (1, []))
    if absent := [column for column in INFO_COLUMNS if column not in heads]:
        raise DataError(f"{path}, line 1: lacks the column {absent[0]!r}; {AGAIN} whole")
    places = [heads.index(column) for column in INFO_COLUMNS]
    found: dict[str, tuple[str, dict[str, str | float]]] = {}
    for line, values in lines:
        if len(values) != len(heads):
            raise DataError(f"{path}, line {line}: {len(values)} values under {len(heads)} heads; {AGAIN} whole")
        name, title, artist, album, start = (values[place].strip() for place in places)
        if not re.fullmatch("[0-9]+", start):
            raise DataError(f"{path}, line {line}: segmentStart is {start!r}, should be whole seconds")
        found[name] = artist, {"title": title, "album": album, "segment_start": float(start)}
    return found


def _table(root: Path, name: str) -> Path:
    return next((path for path in (root / name, root / "annotations" / name) if path.is_file()), root / name)


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of each line and its values, quoted or not."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter="\t")
            for values in reader:
                if values:
                    yield reader.line_num, values
    except FileNotFoundError:
        raise DataError(f"{path}: not there; {AGAIN}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise DataError(f"{path}: cannot be read as a table: {problem}; {AGAIN} whole") from None


DATASET = MagnaTagATune()
