"""MagnaTagATune: 25,863 clips of 29 s of independent music, with 188 tags that players of a game gave.

The tags were collected in TagATune [law2009]; the music is Magnatune's, by 230 artists, as MP3 at 16 kHz, mono,
32 kbit/s, 29.124 s each. The facts are in [notes/benchmark §1.2], counted again on the annotations that JukeMIR
republishes [castellon2021].

    magnatagatune/
      annotations_final.csv     clip_id, 188 columns of 0 or 1, mp3_path; separated by tabs
      clip_info_final.csv       31,382 lines, 5,519 of them without a clip
      mp3/0/ … mp3/f/           unpacked from mp3.zip.001 to .003, which together are one zip

Audio is also found in `audio/` (mirdata) or the root, the tables in `annotations/`. Clips 35644, 55753 and 57881 do not
decode: they are not indexed, and `check` lists their files as extra; 25,860 clips are left.

Split schemes, by the folder's digit, 0 to b train, c valid, d to f test: `official`, all clips, 18,706 / 1,825 / 5,329,
including those without any of the top 50 tags (3,459 / 296 / 997); `cleaned`, without these, 15,247 / 1,529 / 4,332, as
in [won2020]. Scores on the two are not comparable. The group is the artist: no song is in two splits, but 56 of 230
artists are: 40 in train and test, 8 in train and valid, 3 in valid and test, 5 in all three.

Labels: `tags`, all of a clip's 188 tags, where synonyms (`no vocal`, `no vocals`, `no voice`) stay separate; `title`,
`album`, and `segment_start` in seconds of the song. `TOP_50` is the usual list in JukeMIR's order; it is fixed here
because counting leaves three ties.
"""

from __future__ import annotations

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
from carrara.data._base import Dataset
from carrara.data._tables import read_lines, read_table

TOP_50 = (
    "guitar", "classical", "slow", "techno", "strings", "drums", "electronic", "rock", "fast", "piano", "ambient",
    "beat", "violin", "vocal", "synth", "female", "indian", "opera", "male", "singing", "vocals", "no vocals",
    "harpsichord", "loud", "quiet", "flute", "woman", "male vocal", "no vocal", "pop", "soft", "sitar", "solo",
    "man", "classic", "choir", "voice", "new age", "dance", "male voice", "female vocal", "beats", "harp", "cello",
    "no voice", "weird", "country", "metal", "female voice", "choral",
)  # fmt: skip
UNDECODABLE = frozenset({"35644", "55753", "57881"})
AUDIO_FOLDERS = ("mp3", "audio", ".")
TAGS_FILE, INFO_FILE = "annotations_final.csv", "clip_info_final.csv"
ID_COLUMN, PATH_COLUMN = "clip_id", "mp3_path"
INFO_COLUMNS = (ID_COLUMN, "title", "artist", "album", "segmentStart")
# Also known as mi.soi.city.ac.uk; the hashes are from JukeMIR's list of assets.
HOST = "https://mirg.city.ac.uk/datasets/magnatagatune"
TABLES_SHA256 = {
    TAGS_FILE: "99b94e95825d4fa576386a5367b9c96e0ec636e9f9c240aceb492f4728f68c3c",
    INFO_FILE: "cb6108a10d3a91f0bfd7d2fbec2382559d15f20c8d28093f14e12162a47a3e78",
}
PARTS_SHA256 = {
    "mp3.zip.001": "f857fe185968773058cc71662c2ef5d8f2d4b7338e3c122cfd52f82dcb9760b9",
    "mp3.zip.002": "fc2e1ec441755556ed1398b1808f1b08b6034372f8bc27394510c0c58cdb52ce",
    "mp3.zip.003": "83a689824c17e82f6eb81cdbc4e4ca239a4cfc1fb41f1a5c80b861caec90450f",
}
CURE = "run `carrara download magnatagatune`"


class MagnaTagATune(Dataset):
    """The clips that decode, with their tags; the layout and splits are in the module's docstring."""

    name = "magnatagatune"
    folder_names = ("MagnaTagATune", "MTT")
    title = "MagnaTagATune"
    license = "CC BY-NC-SA 3.0"
    commercial_use = False
    citation = "Law, West, Mandel, Bay, Downie: Evaluation of Algorithms Using Games: the Case of Music Tagging, 2009"
    source = f"{HOST} (no login)"
    remotes = tuple(Remote(f"{HOST}/{name}", name, sha256) for name, sha256 in TABLES_SHA256.items())
    expected_counts: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "official": {"train": 18_706, "valid": 1_825, "test": 5_329},
        "cleaned": {"train": 15_247, "valid": 1_529, "test": 4_332},
    }
    group_names: ClassVar[Mapping[str, str]] = {"official": "artist", "cleaned": "artist"}
    known_leaks: ClassVar[Mapping[str, int | None]] = {"official": 56, "cleaned": 56}
    seconds = (29.0, 29.3)

    def download(self, root: Path, size: str | None = None) -> str:
        """Download the tables and the three parts of the audio, and unpack them below `mp3/`; see the base class."""
        steps = super().download(root, size)
        archive = Path(root) / "mp3.zip"
        mark = Path(root) / ".mp3.zip.unpacked"
        if not mark.exists():
            parts = [
                download(Remote(f"{HOST}/{name}", name, sha256), Path(root)) for name, sha256 in PARTS_SHA256.items()
            ]
            unpack(concatenate_files(parts, archive), Path(root) / AUDIO_FOLDERS[0])
            write_text(mark, HOST + "\n")
            for path in (archive, *parts):
                path.unlink()
        return steps

    def index(self, root: Path) -> list[Clip]:
        """Return every annotated clip that decodes, in the order of the annotations; see the base class."""
        folders = [Path(root) / name for name in AUDIO_FOLDERS]
        folder = next((folder for folder in folders if any(folder.glob("[0-9a-f]/*.mp3"))), folders[0])
        info: dict[str, tuple[str, dict[str, str | float]]] = {}
        for row in read_table(_find_table(Path(root), INFO_FILE), INFO_COLUMNS, CURE, has_quotes=True):
            name, title, artist, album, start = (row.values[column] for column in INFO_COLUMNS)
            if not re.fullmatch("[0-9]+", start):
                raise row.error("segmentStart", "whole seconds")
            info[name] = artist, {"title": title, "album": album, "segment_start": float(start)}
        path = _find_table(Path(root), TAGS_FILE)
        clips = []
        for line, name, audio, tags in _read_tags(path):
            if name not in info:
                raise DataError(f"{path}, line {line}: {INFO_FILE} lacks clip {name}; {CURE}")
            artist, labels = info[name]
            clips.append(Clip(id=name, path=folder / audio, group=artist or None, labels={"tags": tags, **labels}))
        return clips

    def splits(self, root: Path) -> dict[str, dict[str, Split]]:
        """Return the splits by folder, with and without the clips that have none of the 50 tags; see the base class."""
        official: dict[str, Split] = {}
        cleaned: dict[str, Split] = {}
        top_50 = set(TOP_50)
        for _, name, audio, tags in _read_tags(_find_table(Path(root), TAGS_FILE)):
            digit = int(audio[0], 16)
            official[name] = "train" if digit < 0xC else "valid" if digit == 0xC else "test"
            if not top_50.isdisjoint(tags):
                cleaned[name] = official[name]
        return {"official": official, "cleaned": cleaned}


def _find_table(root: Path, name: str) -> Path:
    return next((path for path in (root / name, root / "annotations" / name) if path.is_file()), root / name)


def _read_tags(path: Path) -> Iterator[tuple[int, str, str, list[str]]]:
    """Yield the line, id, audio file and tags of each clip that decodes."""
    lines = read_lines(path, CURE, has_quotes=True)
    _, header = next(lines, (1, []))
    tags = header[1:-1]
    if header[:1] != [ID_COLUMN] or header[-1:] != [PATH_COLUMN] or not set(TOP_50) <= set(tags):
        raise DataError(f"{path}, line 1: not {ID_COLUMN}, the 188 tags and {PATH_COLUMN}; {CURE}")
    ids: set[str] = set()
    for line, values in lines:
        location = f"{path}, line {line}"
        if len(values) != len(header):
            raise DataError(f"{location}: {len(values)} values for {len(header)} columns; {CURE}")
        name, flags, audio = values[0], values[1:-1], values[-1]
        if not re.fullmatch("[0-9]+", name) or name in ids:
            raise DataError(f"{location}: {ID_COLUMN} is {name!r}, should be a whole number that occurs once")
        if not re.fullmatch(r"[0-9a-f]/[^/\\]+\.mp3", audio):
            raise DataError(f"{location}: {PATH_COLUMN} is {audio!r}, should be like f/song-30-59.mp3")
        if unknown := set(flags) - {"0", "1"}:
            raise DataError(f"{location}: a tag is {min(unknown)!r}, should be 0 or 1")
        ids.add(name)
        if name not in UNDECODABLE:
            yield line, name, audio, list(compress(tags, map("1".__eq__, flags)))


DATASET = MagnaTagATune()
