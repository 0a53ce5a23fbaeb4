"""GiantSteps key and GiantSteps-MTG key: 604 and 1,486 previews of electronic dance music with their keys.

Knees and others (ISMIR 2015) took 604 keys from users' corrections in Beatport's forum; Faraldo and others gathered the
second set, rated by hand with a confidence of 0 to 2 (2: 1,182 tracks, 1: 208, 0: 96). Previews last 2 min, a few from
44.7 s up. Facts: benchmark.md 1.1; the split below was compared with the sides and keys that JukeMIR publishes, song by
song, and is the same.

Layout as distributed: two repositories, side by side. `giantsteps-key-dataset` has `annotations/key/<id>.LOFI.key`
(`D minor`) and `annotations/genre/<id>.LOFI.genre`; `giantsteps-mtg-key-dataset` has `annotations/annotations.txt` and
`annotations/beatport_metadata.txt`, tables with tabs. Met as well: `giantsteps-key` and `giantsteps-mtg-key`, and the
folders of GitHub's archives, with a commit at the end of the name. Sound is `<id>.LOFI.mp3` in `audio/` of each
repository, or all in one `audio/` beside them (MARBLE, JukeMIR); a `.wav` of that name (`convert_audio.sh`) is
taken where the MP3 is not there.

Every track is indexed. `key` is one of 24 names with flats; tracks that the annotators gave several keys (63), none
(72 with `-`, 1 blank) or an unclear one (1) have no such label. `confidence` and `bpm` are known in the MTG set only,
`genre` where it is told, in the words of the test set's files (`drum-and-bass`). Of the 1,763 tracks that the split
uses 1,293 are in minor, 176 of them in F minor, and 470 in major.

Split `artist`, JukeMIR's, which MARBLE uses: the 604 are the test side. Every artist of the 1,486 (names parted by
commas) goes by SHA-1 of the name in lower case mod 116, 0 to 99 train, 100 to 115 valid; then, twice through the list,
a track with an artist of valid takes all its artists there. Tracks with confidence 2 and one key are used: 923 / 236 /
604. (The thesis says 1,077 for train and valid; the rule gives 1,159.) The group is an artist with all who are joined
to them by common tracks, named by the first of them in the alphabet: no group is on two sides. The test set names no
artists, so whether it shares any with train cannot be seen from the annotations; no track is in both sets.
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

TONICS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
KEYS = (*(f"{tonic} major" for tonic in TONICS), *(f"{tonic} minor" for tonic in TONICS))
FLATS = {"C#": "Db", "D#": "Eb", "F#": "Gb", "G#": "Ab", "A#": "Bb"}
TEST, TRAIN = "giantsteps-key", "giantsteps-mtg-key"
COMMITS = {
    TEST: "c8cb8aad2cb53f165be51ea099d0dc75c64a844f",
    TRAIN: "fd7b8c584f7bd6d720d170c325a6d42c9bf75a6b",
}
SOUND = "https://www.cp.jku.at/datasets/giantsteps"
SOUNDS = {TEST: f"{SOUND}/backup", TRAIN: f"{SOUND}/mtg_key_backup"}
ANNOTATIONS = ("ID", "MANUAL KEY", "C")
METADATA = ("ID", "ARTIST", "SONG TITLE", "MIX", "LABEL", "BP GENRE", "BP BPM", "BP KEY")
SUFFIX = ".LOFI.key"
AGAIN = "`carrara download giantsteps` gives it"


class GiantSteps(Dataset):
    """Both sets as one."""

    name = "giantsteps"
    title = "GiantSteps key"
    license = "sound: previews of Beatport, no licence stated; annotations: none stated"
    commercial_use = None
    citation = (
        "Knees, Faraldo, Herrera, Vogl, Böck, Hörschläger, Le Goff: Two Data Sets for Tempo Estimation and Key "
        "Detection in Electronic Dance Music Annotated from User Corrections, ISMIR 2015"
    )
    source = "https://github.com/GiantSteps (annotations, by commit) and https://www.cp.jku.at (sound; no login)"
    # GitHub packs an archive anew when it is asked for, so the commit is pinned and no sum.
    remotes = tuple(
        Remote(
            url=f"https://github.com/GiantSteps/{name}-dataset/archive/{commit}.zip",
            path=f"{name}-dataset-{commit}.zip",
            unpack=".",
        )
        for name, commit in COMMITS.items()
    )
    expected_counts: ClassVar[Mapping[str, Mapping[str, int]]] = {"artist": {"train": 923, "valid": 236, "test": 604}}
    seconds = (44.0, 121.0)

    def root(self, data_dir: Path | None = None) -> Path:
        """Return `giantsteps` below `data_dir`; or `data_dir` itself if it is named so or has the repositories."""
        base = Path(data_dir) if data_dir else data_home()
        inside = base / self.name
        if base.name == self.name or inside.is_dir():
            return base if base.name == self.name else inside
        return base if any(_repository(base, name).is_dir() for name in COMMITS) else inside

    def index(self, root: Path) -> list[Clip]:
        """Return the MTG set in its table's order, then the test set by rising id; see the base class."""
        return [*_train_tracks(Path(root)), *_test_tracks(Path(root))]

    def splits(self, root: Path) -> dict[str, dict[str, Split]]:
        """Return the side of each track that is used; see the base class."""
        artists = _artists(Path(root))
        sides = artist_sides(list(artists.values()))
        used: dict[str, Split] = {
            clip.id: sides[artists[clip.id][0]] for clip in _train_tracks(Path(root)) if _is_used(clip)
        }
        return {"artist": {**used, **{clip.id: "test" for clip in _test_tracks(Path(root))}}}

    def download(self, root: Path, size: str | None = None) -> str:
        """Download annotations and sound, each new file held against its MD5; see the base class."""
        left = super().download(root, size)
        for name, clips in ((TRAIN, _train_tracks(Path(root))), (TEST, _test_tracks(Path(root)))):
            repository = _repository(Path(root), name)
            absent = [clip for clip in clips if not clip.path.is_file()]
            for clip in track(absent, f"downloading {name}"):
                place = clip.path.relative_to(root).as_posix()
                path = download(Remote(f"{SOUNDS[name]}/{clip.path.name}", place), Path(root))
                _hold_against_sum(path, repository / "md5" / f"{clip.id}.LOFI.md5")
        return left

    def expected_seconds(self, clip: Clip) -> tuple[float, float] | None:
        """Return the range of the tracks that are used; nobody told the others' lengths. See the base class."""
        return self.seconds if _is_used(clip) else None


def key_name(printed: str) -> str | None:
    """Return a key as one of `KEYS`; none where the annotator gave no key, several or an unclear one.

    Raises:
        ValueError: it is neither.
    """
    found = re.fullmatch("([A-G][#b]?) (major|minor)", printed.strip())
    if found:
        name = f"{FLATS.get(found[1], found[1])} {found[2]}"
        if name in KEYS:
            return name
    elif not printed.strip() or re.search("[/-]", printed):
        return None
    raise ValueError(f"{printed!r} is not a key")


def artist_side(name: str) -> Split:
    """Return where an artist stands before common tracks are looked at: SHA-1 mod 116, 0 to 99 train, else valid."""
    return "train" if int(hashlib.sha1(name.lower().encode()).hexdigest(), 16) % 116 < 100 else "valid"


def artist_sides(tracks: Sequence[Sequence[str]]) -> dict[str, Split]:
    """Return the side of each artist; in two passes, a track with an artist of valid takes all of its artists there."""
    sides = {name: artist_side(name) for artists in tracks for name in artists}
    for _ in range(2):
        for artists in tracks:
            if any(sides[name] == "valid" for name in artists):
                sides.update(dict.fromkeys(artists, "valid"))
    return sides


def artist_groups(tracks: Sequence[Sequence[str]]) -> dict[str, str]:
    """Return for each artist the first, in the alphabet, of all who are joined to them by common tracks."""
    members = {name: {name} for artists in tracks for name in artists}
    for artists in tracks:
        joined = set().union(*(members[name] for name in artists))
        for name in joined:
            members[name] = joined
    return {name: min(joined) for name, joined in members.items()}


def _is_used(clip: Clip) -> bool:
    return "key" in clip.labels and clip.labels.get("confidence", 2) == 2


def _train_tracks(root: Path) -> list[Clip]:
    folder, sounds = _repository(root, TRAIN), _sounds(root, TRAIN)
    path = folder / "annotations" / "annotations.txt"
    metadata, artists = _metadata(root), _artists(root)
    groups = artist_groups(list(artists.values()))
    clips = []
    for line, row in _table(path, ANNOTATIONS):
        name = row["ID"]
        if name not in metadata:
            raise DataError(f"{path}, line {line}: beatport_metadata.txt lacks track {name}; {AGAIN} whole")
        if row["C"] not in ("0", "1", "2"):
            raise DataError(f"{path}, line {line}: C is {row['C']!r}, should be 0, 1 or 2")
        labels = {"key": _key(row["MANUAL KEY"], f"{path}, line {line}"), "confidence": int(row["C"])}
        labels |= metadata[name]
        known = {label: value for label, value in labels.items() if value is not None}
        sound = sounds.get(name, folder / "audio" / f"{name}.LOFI.mp3")
        clips.append(Clip(id=name, path=sound, group=groups[artists[name][0]], labels=known))
    return clips


def _test_tracks(root: Path) -> list[Clip]:
    folder, sounds = _repository(root, TEST), _sounds(root, TEST)
    keys = folder / "annotations" / "key"
    found = {path.name.removesuffix(SUFFIX): path for path in keys.glob(f"*{SUFFIX}")}
    if not found:
        raise DataError(f"{keys}: no files <id>{SUFFIX} in it; {AGAIN}")
    clips = []
    for name in sorted(found, key=lambda name: (len(name), name)):
        key = _key(_text(found[name]).strip(), f"{found[name]}, line 1")
        if key is None:
            raise DataError(f"{found[name]}, line 1: no single key in it; {AGAIN} whole")
        genre = folder / "annotations" / "genre" / f"{name}.LOFI.genre"
        labels = {"key": key, "genre": _text(genre).strip()} if genre.is_file() else {"key": key}
        sound = sounds.get(name, folder / "audio" / f"{name}.LOFI.mp3")
        clips.append(Clip(id=name, path=sound, labels=labels))
    return clips


def _key(printed: str, where: str) -> str | None:
    try:
        return key_name(printed)
    except ValueError:
        raise DataError(f"{where}: key is {printed!r}, should be like 'D# minor'") from None


def _metadata(root: Path) -> dict[str, dict[str, str | int | None]]:
    """Return genre and tempo by id, none where not told."""
    path = _repository(root, TRAIN) / "annotations" / "beatport_metadata.txt"
    found: dict[str, dict[str, str | int | None]] = {}
    for line, row in _table(path, METADATA):
        bpm, genre = row["BP BPM"], row["BP GENRE"].lower().replace("&", "and").replace(" ", "-")
        if bpm and not re.fullmatch("[0-9]+", bpm):
            raise DataError(f"{path}, line {line}: BP BPM is {bpm!r}, should be a whole number or empty")
        found[row["ID"]] = {"genre": genre or None, "bpm": int(bpm) if bpm else None}
    return found


def _artists(root: Path) -> dict[str, list[str]]:
    """Return the artists of each track in lower case, by id, in the order of the table, which the split goes by."""
    path = _repository(root, TRAIN) / "annotations" / "beatport_metadata.txt"
    return {row["ID"]: [name.strip().lower() for name in row["ARTIST"].split(",")] for _, row in _table(path, METADATA)}


def _table(path: Path, heads: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number of each line and its values by column; tabs between, blanks around dropped."""
    lines = [[value.strip() for value in line.split("\t")] for line in _text(path).split("\n")]
    if tuple(lines[0]) != heads:
        raise DataError(f"{path}, line 1: should be the heads {', '.join(heads)}; {AGAIN} whole")
    seen: set[str] = set()
    for number, values in enumerate(lines[1:], start=2):
        if not any(values):
            continue
        if len(values) != len(heads):
            raise DataError(f"{path}, line {number}: {len(values)} values under {len(heads)} heads; {AGAIN} whole")
        if not re.fullmatch("[0-9]+", values[0]) or values[0] in seen:
            raise DataError(f"{path}, line {number}: ID is {values[0]!r}, should be a whole number that stands once")
        seen.add(values[0])
        yield number, dict(zip(heads, values))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: not there; {AGAIN}") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {problem}; {AGAIN} whole") from None


def _repository(root: Path, name: str) -> Path:
    known = (root / f"{name}-dataset", root / name, *sorted(root.glob(f"{name}-dataset-*/")))
    return next((folder for folder in known if folder.is_dir()), known[0])


def _sounds(root: Path, name: str) -> dict[str, Path]:
    """Return the sound files that are there, by id: the repository's own first, and MP3 before WAV."""
    folders = (_repository(root, name) / "audio", root / "audio")
    kinds = [(folder, suffix) for suffix in (".LOFI.wav", ".LOFI.mp3") for folder in reversed(folders)]
    return {path.name.removesuffix(suffix): path for folder, suffix in kinds for path in folder.glob(f"*{suffix}")}


def _hold_against_sum(path: Path, sums: Path) -> None:
    """Remove a sound file that is not the one whose MD5 the annotators wrote down, and say so."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if sums.is_file() and found != _text(sums).strip():
        path.unlink()
        raise DataError(f"{path}: came with another MD5 than {sums} says and was removed; get it again")


DATASET = GiantSteps()
