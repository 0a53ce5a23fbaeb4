"""FMA: 106,574 recordings of the Free Music Archive in four sizes, with genres [defferrard2017].

    fma/
      fma_metadata/tracks.csv        one recording a line below three lines of column names
      fma_small/000/000002.mp3       and so on: 8,000 excerpts of 30 s, eight genres with 1,000 each
      fma_medium/                    25,000 excerpts of 30 s, 16 genres
      fma_large/                     106,574 excerpts of 30 s
      fma_full/                      the same recordings, whole

Each size contains the smaller ones; of the sizes on disk the largest is read. `carrara download fma --size small`
downloads one. `carrara pretrain … --corpus fma` trains on the audio of the largest.

Labels: `genre`, the top one, where a recording has one, `genres`, the numbers of all its genres with their parents
(genres.csv has the names), and `artist`, a number. Split schemes, the authors': `small`, `medium`, `large` (whole
recordings too: `full` on disk). The group is the artist. Some excerpts of each size are known not to decode or to be
shorter (the wiki of the repository lists them): `carrara check fma` names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from carrara.core.clip import Clip, Split
from carrara.core.download import Remote, download
from carrara.core.errors import DataError, UsageError, did_you_mean
from carrara.core.strict_json import parse_json
from carrara.data._base import Dataset
from carrara.data._tables import read_lines

SIZES = ("small", "medium", "large", "full")
SPLITS: dict[str, Split] = {"training": "train", "validation": "valid", "test": "test"}
SMALL_GENRES = ("Electronic", "Experimental", "Folk", "Hip-Hop", "Instrumental", "International", "Pop", "Rock")
GENRES = (
    *("Blues", "Classical", "Country", "Easy Listening", "Electronic", "Experimental", "Folk", "Hip-Hop"),
    *("Instrumental", "International", "Jazz", "Old-Time / Historic", "Pop", "Rock", "Soul-RnB", "Spoken"),
)
COUNTS: dict[str, dict[str, int]] = {
    "small": {"train": 6_400, "valid": 800, "test": 800},
    "medium": {"train": 19_922, "valid": 2_505, "test": 2_573},
    "large": {"train": 84_353, "valid": 11_263, "test": 10_958},
}
COLUMNS = {
    "subset": ("set", "subset"), "split": ("set", "split"), "genre": ("track", "genre_top"),
    "genres": ("track", "genres_all"), "artist": ("artist", "id"),
}  # fmt: skip
ADDRESS = "https://os.unil.cloud.switch.ch/fma"
CURE = "`carrara download fma --size small` downloads it"


class FMA(Dataset):
    """The recordings with their genres; the layout and splits are in the module's docstring."""

    name = "fma"
    folder_names = ("FMA",)
    title = "FMA"
    license = "audio: Creative Commons, by recording; metadata: CC BY 4.0"
    commercial_use = None
    citation = "Defferrard, Benzi, Vandergheynst, Bresson: FMA: A Dataset for Music Analysis, ISMIR 2017"
    source = "https://github.com/mdeff/fma"
    expected_counts: ClassVar[Mapping[str, Mapping[str, int]]] = COUNTS
    known_leaks: ClassVar[Mapping[str, int | None]] = dict.fromkeys(COUNTS)
    group_names: ClassVar[Mapping[str, str]] = dict.fromkeys(COUNTS, "artist")

    def index(self, root: Path) -> list[Clip]:
        """Return the recordings of the largest size on disk, in the order of the table; see the base class."""
        return [clip for clip, _, _ in _read_tracks(Path(root))]

    def splits(self, root: Path) -> dict[str, dict[str, Split]]:
        """Return the split of each recording by size; see the base class."""
        schemes: dict[str, dict[str, Split]] = {name: {} for name in _schemes(Path(root))}
        for clip, subset, split in _read_tracks(Path(root)):
            for name in schemes:
                if SIZES.index(subset) <= SIZES.index(name):
                    schemes[name][clip.id] = split
        return schemes

    def clips(self, root: Path, split_scheme: str) -> list[Clip]:
        """Return the clips of a size; see the base class.

        Raises:
            DataError: that size is not on disk.
        """
        if split_scheme in COUNTS and split_scheme not in _schemes(Path(root)):
            raise DataError(
                f"{root}: only fma_{_size_on_disk(Path(root))} is there; `carrara download fma --size {split_scheme}` "
                "downloads the larger one"
            )
        return super().clips(root, split_scheme)

    def expected_counts_at(self, root: Path) -> Mapping[str, Mapping[str, int]]:
        """Return the counts of the sizes on disk; see the base class."""
        return {name: COUNTS[name] for name in _schemes(Path(root))}

    def expected_seconds(self, clip: Clip) -> tuple[float, float] | None:
        """Return about 30 s for excerpts; any for whole recordings. See the base class."""
        return None if clip.path.parent.parent.name == "fma_full" else (29.0, 31.0)

    def corpus_folder(self, root: Path) -> Path:
        """Return the folder of the largest size on disk; see the base class."""
        return Path(root) / f"fma_{_size_on_disk(Path(root)) or 'large'}"

    def root_for_size(self, data_dir: Path | None, size: str) -> Path:
        """Return the folder of all sizes; see the base class."""
        _check_size(size)
        return self.root(data_dir)

    def download(self, root: Path, size: str | None = None) -> str:
        """Download the metadata and the audio of a size, small by default; see the base class."""
        size = _check_size(size or "small")
        for name in ("fma_metadata", f"fma_{size}"):
            download(Remote(f"{ADDRESS}/{name}.zip", f"{name}.zip", unpack="."), Path(root))
        return ""


def _check_size(size: str) -> str:
    if size not in SIZES:
        raise UsageError(f"fma has no size {size!r}.{did_you_mean(size, SIZES)} It comes as {', '.join(SIZES)}.")
    return size


def _size_on_disk(root: Path) -> str | None:
    """Return the largest size on disk; excerpts before whole recordings."""
    return next((size for size in ("large", "full", "medium", "small") if (root / f"fma_{size}").is_dir()), None)


def _schemes(root: Path) -> tuple[str, ...]:
    """Return the split schemes that the size on disk has; all where none is."""
    size = _size_on_disk(root)
    return SIZES[:3] if size in (None, "full") else SIZES[: SIZES.index(size) + 1]


def _read_tracks(root: Path) -> list[tuple[Clip, str, Split]]:
    """Return each recording of the size on disk, the smallest size that has it, and its split."""
    path = root / "fma_metadata/tracks.csv"
    lines = read_lines(path, CURE, delimiter=",", has_quotes=True)
    names = [next(lines, (0, []))[1] for _ in range(2)]
    columns = list(zip(*names))
    if absent := [" ".join(pair) for pair in COLUMNS.values() if pair not in columns]:
        raise DataError(f"{path}, line 1: lacks the column {absent[0]}; {CURE}")
    at = {name: columns.index(pair) for name, pair in COLUMNS.items()}
    folder, schemes = root / f"fma_{_size_on_disk(root) or 'large'}", _schemes(root)
    tracks = []
    for line, values in lines:
        if values[0] == "track_id":
            continue
        if len(values) != len(columns) or not values[0].isdecimal():
            raise DataError(
                f"{path}, line {line}: {len(values)} values for {len(columns)} columns, or no number; {CURE}"
            )
        own = {name: values[index].strip() for name, index in at.items()}
        if own["subset"] not in SIZES or own["split"] not in SPLITS:
            raise DataError(
                f"{path}, line {line}: {own['subset']!r} and {own['split']!r} are no size and split; {CURE}"
            )
        if own["subset"] not in schemes:
            continue
        number = f"{int(values[0]):06}"
        labels: dict[str, Any] = {"genre": own["genre"]} if own["genre"] else {}
        try:
            labels["genres"] = [str(genre) for genre in parse_json(own["genres"] or "[]")]
        except ValueError:
            raise DataError(f"{path}, line {line}: genres_all is {own['genres'][:40]!r}, should be a list") from None
        if own["artist"]:
            labels["artist"] = own["artist"]
        clip = Clip(id=number, path=folder / number[:3] / f"{number}.mp3", group=own["artist"] or None, labels=labels)
        tracks.append((clip, own["subset"], SPLITS[own["split"]]))
    return tracks


DATASET = FMA()
