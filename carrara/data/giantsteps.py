"""GiantSteps key and GiantSteps-MTG key: 604 and 1,486 previews of electronic dance music with their keys.

The 604 keys are users' corrections in Beatport's forum [knees2015]; the second set was annotated by hand with a
confidence of 0 to 2 (2: 1,182 tracks, 1: 208, 0: 96) [faraldo2017]. Previews last 2 min, a few from 44.7 s. The facts
are in [notes/benchmark §1.1].

    giantsteps/
      giantsteps-key-dataset/
        annotations/key/<id>.LOFI.key         D minor
        annotations/genre/<id>.LOFI.genre
        audio/<id>.LOFI.mp3
      giantsteps-mtg-key-dataset/
        annotations/annotations.txt           key and confidence
        annotations/beatport_metadata.txt     artist, genre, tempo
        audio/<id>.LOFI.mp3

The repositories may also be named `giantsteps-key` and `giantsteps-mtg-key`, or end in a commit as GitHub's archives
do. Audio may be in one `audio/` beside them (MARBLE, JukeMIR), and a `.wav` file (`convert_audio.sh`) is used where the
MP3 is missing.

Labels: `key` is one of 24 names with flats, absent where the annotators wrote several keys (63 tracks), none (72 with
`-`, 1 blank) or an unclear one (1). `confidence` and `bpm` exist in the MTG set only; `genre` where it is known, spelt
as in the test set (`drum-and-bass`).

Split scheme `artist`, JukeMIR's [castellon2021], which MARBLE uses: the 604 are test; the MTG tracks with confidence 2
and a single key are split by artist: 923 / 236 / 604. (The 1,077 for train and valid in [yuan2023thesis] do not follow
from the rule.) The group is an artist with all who share tracks with them, named by the alphabetically first. The test
set has no artists, so leaks into it cannot be seen; no track is in both sets.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from carrara.core.clip import Clip, Split
from carrara.core.download import Remote, download
from carrara.core.errors import DataError
from carrara.core.paths import data_home
from carrara.core.progress import track
from carrara.data._base import Dataset
from carrara.data._tables import Row, read_table, read_text

TONICS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
KEYS = (*(f"{tonic} major" for tonic in TONICS), *(f"{tonic} minor" for tonic in TONICS))
FLATS = {"C#": "Db", "D#": "Eb", "F#": "Gb", "G#": "Ab", "A#": "Bb"}
TEST, TRAIN = "giantsteps-key", "giantsteps-mtg-key"
COMMITS = {
    TEST: "c8cb8aad2cb53f165be51ea099d0dc75c64a844f",
    TRAIN: "fd7b8c584f7bd6d720d170c325a6d42c9bf75a6b",
}
AUDIO_HOST = "https://www.cp.jku.at/datasets/giantsteps"
AUDIO_URLS = {TEST: f"{AUDIO_HOST}/backup", TRAIN: f"{AUDIO_HOST}/mtg_key_backup"}
ANNOTATIONS = ("ID", "MANUAL KEY", "C")
METADATA = ("ID", "ARTIST", "SONG TITLE", "MIX", "LABEL", "BP GENRE", "BP BPM", "BP KEY")
SUFFIX = ".LOFI.key"
CURE = "run `carrara download giantsteps`"


class GiantSteps(Dataset):
    """Both sets as one dataset; the layout and splits are in the module's docstring."""

    name = "giantsteps"
    title = "GiantSteps key"
    license = "audio: previews of Beatport, no licence stated; annotations: none stated"
    commercial_use = None
    citation = (
        "Knees, Faraldo, Herrera, Vogl, Böck, Hörschläger, Le Goff: Two Data Sets for Tempo Estimation and Key "
        "Detection in Electronic Dance Music Annotated from User Corrections, ISMIR 2015"
    )
    source = "https://github.com/GiantSteps (annotations, by commit) and https://www.cp.jku.at (audio; no login)"
    # GitHub packs an archive at each request, so the commit is pinned instead of a hash.
    remotes = tuple(
        Remote(
            url=f"https://github.com/GiantSteps/{name}-dataset/archive/{commit}.zip",
            path=f"{name}-dataset-{commit}.zip",
            unpack=".",
        )
        for name, commit in COMMITS.items()
    )
    group_names: ClassVar[Mapping[str, str]] = {"artist": "artist"}
    expected_counts: ClassVar[Mapping[str, Mapping[str, int]]] = {"artist": {"train": 923, "valid": 236, "test": 604}}
    seconds = (44.0, 121.0)

    def root(self, data_dir: Path | None = None) -> Path:
        """Return `giantsteps` below `data_dir`, or `data_dir` itself if it has that name or holds the repositories."""
        base = Path(data_dir) if data_dir else data_home()
        folder = super().root(data_dir)
        has_repositories = any(_find_repository(base, name).is_dir() for name in COMMITS)
        return base if has_repositories and not folder.is_dir() else folder

    def index(self, root: Path) -> list[Clip]:
        """Return the MTG set in its table's order, then the test set by ascending id; see the base class."""
        return [*_read_mtg_tracks(Path(root)), *_read_test_tracks(Path(root))]

    def splits(self, root: Path) -> dict[str, dict[str, Split]]:
        """Return the split of each track with a sure, single key; see the base class."""
        artists = _read_artists(Path(root))
        split_of = split_artists(list(artists.values()))
        splits: dict[str, Split] = {
            clip.id: split_of[artists[clip.id][0]] for clip in _read_mtg_tracks(Path(root)) if _has_sure_key(clip)
        }
        return {"artist": {**splits, **{clip.id: "test" for clip in _read_test_tracks(Path(root))}}}

    def download(self, root: Path, size: str | None = None) -> str:
        """Download annotations and audio, and verify the MD5 of each new audio file; see the base class."""
        steps = super().download(root, size)
        for name, clips in ((TRAIN, _read_mtg_tracks(Path(root))), (TEST, _read_test_tracks(Path(root)))):
            md5_folder = _find_repository(Path(root), name) / "md5"
            missing = [clip for clip in clips if not clip.path.is_file()]
            for clip in track(missing, f"downloading {name}"):
                local = clip.path.relative_to(root).as_posix()
                path = download(Remote(f"{AUDIO_URLS[name]}/{clip.path.name}", local), Path(root))
                md5_path = md5_folder / f"{clip.id}.LOFI.md5"
                with path.open("rb") as file:
                    md5 = hashlib.file_digest(file, "md5").hexdigest()
                if md5_path.is_file() and md5 != read_text(md5_path, CURE).strip():
                    path.unlink()
                    raise DataError(f"{path}: its MD5 is not that in {md5_path}, so it was removed; {CURE} again")
        return steps

    def expected_seconds(self, clip: Clip) -> tuple[float, float] | None:
        """Return the range of the tracks in the split; other durations are unknown. See the base class."""
        return self.seconds if _has_sure_key(clip) else None


def key_name(printed: str) -> str | None:
    """Return a key as one of `KEYS`; None where the annotator wrote no key, several or an unclear one.

    Raises:
        ValueError: the text is neither a key nor one of these.
    """
    match = re.fullmatch("([A-G][#b]?) (major|minor)", printed.strip())
    if match:
        name = f"{FLATS.get(match[1], match[1])} {match[2]}"
        if name in KEYS:
            return name
    elif not printed.strip() or re.search("[/-]", printed):
        return None
    raise ValueError(f"{printed!r} is not a key")


def split_artists(tracks: Sequence[Sequence[str]]) -> dict[str, Split]:
    """Return the split of each artist: SHA-1 of the lower-case name modulo 116, 0 to 99 train, else valid.

    Then, in two passes, a track with an artist in valid moves all its artists to valid [notes/benchmark §1.1].

    Args:
        tracks: The artists of each track, in the order of the table, on which the result depends.
    """
    splits: dict[str, Split] = {}
    for artists in tracks:
        for name in artists:
            remainder = int(hashlib.sha1(name.lower().encode()).hexdigest(), 16) % 116
            splits[name] = "train" if remainder < 100 else "valid"
    for _ in range(2):
        for artists in tracks:
            if any(splits[name] == "valid" for name in artists):
                splits.update(dict.fromkeys(artists, "valid"))
    return splits


def group_artists(tracks: Sequence[Sequence[str]]) -> dict[str, str]:
    """Return the group of each artist, named by the alphabetically first of all artists connected by common tracks."""
    members = {name: {name} for artists in tracks for name in artists}
    for artists in tracks:
        merged = set().union(*(members[name] for name in artists))
        for name in merged:
            members[name] = merged
    return {name: min(connected) for name, connected in members.items()}


def _has_sure_key(clip: Clip) -> bool:
    return "key" in clip.labels and clip.labels.get("confidence", 2) == 2


def _read_mtg_tracks(root: Path) -> list[Clip]:
    folder, audio = _find_repository(root, TRAIN), _find_audio(root, TRAIN)
    metadata = {row.values["ID"]: row for row in _read_metadata(root)}
    artists = _read_artists(root)
    groups = group_artists(list(artists.values()))
    clips = []
    for row in _read_tracks(folder / "annotations" / "annotations.txt", ANNOTATIONS):
        name, confidence = row.values["ID"], row.values["C"]
        location = f"{row.path}, line {row.line}"
        if name not in metadata:
            raise DataError(f"{location}: beatport_metadata.txt lacks track {name}; {CURE}")
        if confidence not in ("0", "1", "2"):
            raise row.error("C", "0, 1 or 2")
        bpm, genre = (metadata[name].values[column] for column in ("BP BPM", "BP GENRE"))
        labels = {
            "key": _parse_key(row.values["MANUAL KEY"], location),
            "confidence": int(confidence),
            "genre": genre.lower().replace("&", "and").replace(" ", "-") or None,
            "bpm": int(bpm) if bpm else None,
        }
        known = {label: value for label, value in labels.items() if value is not None}
        path = audio.get(name, folder / "audio" / f"{name}.LOFI.mp3")
        clips.append(Clip(id=name, path=path, group=groups[artists[name][0]], labels=known))
    return clips


def _read_test_tracks(root: Path) -> list[Clip]:
    folder, audio = _find_repository(root, TEST), _find_audio(root, TEST)
    keys = folder / "annotations" / "key"
    paths = {path.name.removesuffix(SUFFIX): path for path in keys.glob(f"*{SUFFIX}")}
    if not paths:
        raise DataError(f"{keys}: no files <id>{SUFFIX} in it; {CURE}")
    clips = []
    for name in sorted(paths, key=lambda name: (len(name), name)):
        key = _parse_key(read_text(paths[name], CURE).strip(), f"{paths[name]}, line 1")
        if key is None:
            raise DataError(f"{paths[name]}, line 1: no single key in it; {CURE}")
        labels = {"key": key}
        genre = folder / "annotations" / "genre" / f"{name}.LOFI.genre"
        if genre.is_file():
            labels["genre"] = read_text(genre, CURE).strip()
        path = audio.get(name, folder / "audio" / f"{name}.LOFI.mp3")
        clips.append(Clip(id=name, path=path, labels=labels))
    return clips


def _parse_key(printed: str, location: str) -> str | None:
    try:
        return key_name(printed)
    except ValueError:
        raise DataError(f"{location}: key is {printed!r}, should be like 'D# minor'") from None


def _read_artists(root: Path) -> dict[str, list[str]]:
    """Return the artists of each track in lower case, by id, in the order of the table, on which the split depends."""
    return {
        row.values["ID"]: [name.strip().lower() for name in row.values["ARTIST"].split(",")]
        for row in _read_metadata(root)
    }


def _read_metadata(root: Path) -> Iterator[Row]:
    path = _find_repository(root, TRAIN) / "annotations" / "beatport_metadata.txt"
    for row in _read_tracks(path, METADATA):
        if not re.fullmatch("[0-9]*", row.values["BP BPM"]):
            raise row.error("BP BPM", "a whole number or empty")
        yield row


def _read_tracks(path: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    """Yield the rows of a table of tracks, each with an id of its own."""
    ids: set[str] = set()
    for row in read_table(path, columns, CURE):
        if not re.fullmatch("[0-9]+", row.values["ID"]) or row.values["ID"] in ids:
            raise row.error("ID", "a whole number that occurs once")
        ids.add(row.values["ID"])
        yield row


def _find_repository(root: Path, name: str) -> Path:
    folders = (root / f"{name}-dataset", root / name, *sorted(root.glob(f"{name}-dataset-*/")))
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def _find_audio(root: Path, name: str) -> dict[str, Path]:
    """Return existing audio files by id: those in the repository before others, and MP3 before WAV."""
    folders = (root / "audio", _find_repository(root, name) / "audio")
    patterns = [(folder, suffix) for suffix in (".LOFI.wav", ".LOFI.mp3") for folder in folders]
    return {path.name.removesuffix(suffix): path for folder, suffix in patterns for path in folder.glob(f"*{suffix}")}


DATASET = GiantSteps()
