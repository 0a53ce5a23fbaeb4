"""Your own recordings: a folder with `labels.csv` or `labels.jsonl`, one clip per line.

    my-folder/
      labels.csv        path,split,group,mood,tags[]
      a.wav             a.wav,train,some artist,calm,piano;slow
      more/b.flac       more/b.flac,test,another artist,wild,drums

The CSV file is in UTF-8; commas, semicolons or tabs separate the columns. Columns, or keys of the JSON lines:

- `path`: the audio file, absolute or relative to the folder;
- `id`, `start` and `duration` in seconds: optional;
- `split`: train, valid, test, or empty for clips that are in no split;
- `group`: what may not be in two splits, such as the song, singer or artist;
- any other column is a label. In a CSV file, a column `tags[]` becomes the label `tags`, a list separated by
  semicolons, a tag with a semicolon in double quotes; JSON lines hold lists, numbers and objects. Numbers have a
  decimal point.

Other layouts, without such a file or with one of another name:

- `metadata.csv` or `metadata.jsonl` with a column `file_name` instead of `path`, as in Hugging Face's audiofolder;
- one folder for each class, `CLASS/a.wav`, or `train/CLASS/a.wav` with test and valid (val, validation, dev) beside it:
  the label is called `label`;
- text files beside the audio, in any of the layouts, or alone in a folder or in train, valid and test.

Beside `a.wav` there may be:

    a.beats       time, or time and beat in the bar    labels beats, downbeats
    a.chords      start end chord, as 0.5 2.1 A:min7   label chords
    a.structure   start end section                    label structure
    a.melody      start end Hz, or time Hz             label melody
    a.lab, a.txt  any of these but melody; what is in the files decides

Times are in seconds; blanks, tabs or commas separate; lines that begin with # do not count. Instead of `start end
label` a line may be `time label`, up to the next line's time; the last line is then the end. A .txt that does not begin
with a time is not read.

`carrara new task FOLDER` writes a task file from what it reads.

Split scheme: `given` if any clip has a split. Otherwise `hashed`: the SHA-1 of the group (or of the id, by default the
path) modulo 10 is 0 to 6 for train, 7 for valid, and 8 or 9 for test, so splits never change as a folder grows. In a
small folder, where a split would have fewer than two clips, of six groups or more the two with the lowest hashes (or a
tenth) are valid and the next two (or a fifth) are test.
"""

from __future__ import annotations

import csv
import hashlib
import io
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from carrara.core.clip import SPLITS, Clip, Split
from carrara.core.errors import DataError, UsageError, did_you_mean
from carrara.core.hashing import canonical_json
from carrara.core.printable import printable
from carrara.core.strict_json import parse_json_object
from carrara.data._annotations import add_annotations, has_annotations
from carrara.data._base import Dataset
from carrara.data._tables import read_text, split_lines, split_tags

FILES = ("labels.csv", "labels.jsonl", "metadata.csv", "metadata.jsonl")
SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "dev": "valid",
}
PATH_COLUMNS = ("path", "file_name")
CLIP_COLUMNS = ("path", "id", "split", "group", "start", "duration")
LIST_SUFFIX = "[]"
MIN_SPLIT_CLIPS = 2
MIN_GROUPS = 3 * MIN_SPLIT_CLIPS
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
MAX_NAME_BYTES = 255  # of a file's name, on every usual file system
MAX_SHOWN = 60
CURE = "write it in UTF-8"


class FolderDataset(Dataset):
    """A folder of recordings with a file of labels; its root is the folder itself."""

    name = "folder"
    title = "a folder of one's own"
    license = "as its owner says"
    commercial_use = None
    citation = "none: private data"
    finds_copies = True
    source = "your own folder of recordings and labels; `carrara show folder` explains the layouts"
    manual_steps = (
        "1. Put the recordings into a folder for each class, or into one folder with a file labels.csv beside them:\n"
        "   path,split,<label>,… with one line per recording.\n"
        "2. carrara check FOLDER\n"
        "3. carrara new task FOLDER"
    )

    def __init__(self, folder: Path | None = None) -> None:
        """Create the dataset of a folder; without one, `root` takes its argument."""
        self.folder = folder

    def root(self, data_dir: Path | None = None) -> Path:
        """Return the dataset's folder, or `data_dir` if it has none.

        Raises:
            UsageError: neither is known.
        """
        if self.folder is None and data_dir is None:
            raise UsageError("the dataset 'folder' is any folder: name it with --data-dir FOLDER")
        return Path(self.folder or data_dir or ".")

    def check_command(self, data_dir: Path | None = None) -> str:
        """Return the command that checks the folder; see the base class."""
        return f"carrara check {shlex.quote(str(self.root(data_dir)))}"

    def download_cure(self, data_dir: Path | None = None) -> str:
        """Return what to do where the folder has no audio; see the base class."""
        return f"put the recordings where the paths of {' or '.join(FILES)} say"

    def absent_audio(self, problem: str, data_dir: Path | None = None) -> DataError:
        """Return an error that fails the task: no one's own folder is merely not downloaded; see the base class."""
        return DataError(f"{problem}; {self.download_cure()}")

    def index(self, root: Path) -> list[Clip]:
        """Return one clip per line, in the order of the lines; see the base class."""
        path = next((Path(root) / name for name in FILES if (Path(root) / name).is_file()), None)
        if path is None:
            rows: Iterable[tuple[str, dict[str, Any]]] = _list_classes(Path(root))
        else:
            rows = _read_json_lines(path) if path.suffix == ".jsonl" else _read_csv(path)
        clips: dict[str, Clip] = {}
        for location, row in rows:
            _refuse_nul(row, location)
            clip = _parse_clip(root, row, location)
            if clip.id in clips:
                raise DataError(f"{location}: a second clip with the id {clip.id!r}; give each line its own id")
            clips[clip.id] = clip
        add_annotations(list(clips.values()))
        return list(clips.values())

    def splits(self, root: Path) -> dict[str, dict[str, Split]]:
        """Return the given splits, or hashed ones if there are none; see the base class."""
        clips = self.index(root)
        if any(clip.split for clip in clips):
            return {"given": {clip.id: clip.split for clip in clips if clip.split}}
        return {"hashed": _hash_splits(clips)}


def _list_classes(root: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a row for each audio file in `CLASS/` or `SPLIT/CLASS/`, or beside its annotations."""
    from carrara.audio.decode import SUFFIXES

    count = 0
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if path.suffix.lower() not in SUFFIXES or any(part.startswith(".") for part in parts) or not path.is_file():
            continue
        row: dict[str, Any] = {"path": path.relative_to(root).as_posix()}
        is_annotated = has_annotations(path)
        split = SPLIT_FOLDERS.get(parts[0].lower()) if len(parts) > 2 or (is_annotated and len(parts) == 2) else None
        folders = parts[1 if split else 0 : -1]
        if split:
            row["split"] = split
        if folders:
            row["label"] = folders[0]
        elif not is_annotated:
            continue
        count += 1
        yield str(path), row
    if not count:
        raise DataError(
            f"{root}: neither {' nor '.join(FILES)} in it, nor folders of classes with audio, nor text files beside "
            "audio that begin with a time; `carrara show folder` "
            "explains the layouts"
        )


def _read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the location and the values of each line."""
    for number, line in enumerate(split_lines(read_text(path, CURE)), start=1):
        location = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            row = parse_json_object(line)
            canonical_json(row).encode()
        except UnicodeEncodeError:
            raise DataError(f"{location}: holds half a character (an escape such as \\ud800 alone)") from None
        except ValueError as problem:
            raise DataError(f"{location}: {problem}") from None
        yield location, row


def _read_csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the location and the values of each line; empty values are left out."""
    text = read_text(path, CURE)
    first = split_lines(text)[0]
    delimiter = next((mark for mark in DELIMITERS if set(PATH_COLUMNS) & set(_column_names(first, mark))), ",")
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    start = 1
    no_header = (
        "the first line must name the columns, each once, and one of them path, separated by commas, semicolons or "
        f"tabs; it is {first[:MAX_SHOWN]!r}"
    )
    try:
        for values in rows:
            location, start = f"{path}, line {start}", rows.line_num + 1
            if not header:
                header = [name.strip() for name in values]
                if not set(PATH_COLUMNS) & set(header) or len(set(header)) < len(header):
                    raise DataError(f"{location}: {no_header}")
            elif any(value.strip() for value in values):
                if len(values) != len(header):
                    raise DataError(
                        f"{location}: {len(values)} values for {len(header)} columns; quote values with "
                        f"{DELIMITERS[delimiter]}"
                    )
                yield location, _parse_row(header, values)
    except csv.Error as problem:
        raise DataError(f"{path}, line {start}: {f'not CSV ({problem})' if header else no_header}") from None


def _column_names(line: str, delimiter: str) -> list[str]:
    return [name.strip().strip('"') for name in line.split(delimiter)]


def _parse_row(header: list[str], values: list[str]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in zip(header, map(str.strip, values)):
        if name.endswith(LIST_SUFFIX):
            row[name.removesuffix(LIST_SUFFIX)] = split_tags(value)
        elif value:
            row[name] = value
    return row


def _refuse_nul(row: Mapping[str, Any], location: str) -> None:
    """Refuse a name or a value with a NUL character, which JSON can escape; two labels may look alike through it."""
    for name, value in row.items():
        texts = (name, *(value if isinstance(value, list) else [value]))
        if any(isinstance(text, str) and "\0" in text for text in texts):
            raise DataError(f"{location}: {printable(name)} holds a NUL character; leave it out")


def _parse_clip(root: Path, row: Mapping[str, Any], location: str) -> Clip:
    if "file_name" in row and "path" not in row:
        row = {"path" if name == "file_name" else name: value for name, value in row.items()}
    if not isinstance(row.get("path"), str) or not row["path"]:
        raise DataError(f"{location}: no path of an audio file")
    if any(len(part.encode()) > MAX_NAME_BYTES for part in Path(row["path"]).parts):
        raise DataError(f"{location}: {row['path'][:MAX_SHOWN]!r} … cannot be the path of a file")
    split = row.get("split")
    if split is not None and split not in SPLITS:
        near = did_you_mean(str(split)[:MAX_SHOWN].lower(), SPLITS)
        raise DataError(f"{location}: split {str(split)[:MAX_SHOWN]!r} is not one of {', '.join(SPLITS)}.{near}")
    for column in ("id", "group"):
        if isinstance(row.get(column), dict | list):
            raise DataError(f"{location}: {column} is a list or an object; write a text or a number")
    start, duration = _parse_seconds(row, "start", location), _parse_seconds(row, "duration", location)
    segment = (f"@{start:g}" if start else "") + (f"+{duration:g}" if duration else "")
    return Clip(
        id=str(row.get("id") or row["path"] + segment),
        path=Path(root) / row["path"],
        start=start or 0.0,
        duration=duration,
        split=split,
        group=None if row.get("group") is None else str(row["group"]),
        labels={name: value for name, value in row.items() if name not in CLIP_COLUMNS},
    )


def _parse_seconds(row: Mapping[str, Any], column: str, location: str) -> float | None:
    if row.get(column) is None:
        return None
    try:
        seconds = float(row[column])
    except (TypeError, ValueError, OverflowError):
        seconds = -1.0
    if not 0 <= seconds < float("inf") or (column == "duration" and seconds == 0):
        raise DataError(
            f"{location}: {column} {str(row[column])[:MAX_SHOWN]!r} is not a length in seconds, such as 1.5"
        )
    return seconds


def _hash_splits(clips: Iterable[Clip]) -> dict[str, Split]:
    """Return the split of each clip by the hash of its group or id, in small folders by the order of the hashes."""
    group_of = {clip.id: clip.group or clip.id for clip in clips}
    hashes = {group: int(hashlib.sha1(group.encode()).hexdigest(), 16) for group in group_of.values()}
    splits: dict[str, Split] = {
        group: "train" if number % 10 < 7 else "valid" if number % 10 < 8 else "test"
        for group, number in hashes.items()
    }
    counts = Counter(splits[group] for group in group_of.values())
    if len(splits) >= MIN_GROUPS and any(counts[split] < MIN_SPLIT_CLIPS for split in SPLITS):
        valid, test = (max(MIN_SPLIT_CLIPS, round(share * len(splits))) for share in (0.1, 0.2))
        for rank, group in enumerate(sorted(hashes, key=hashes.__getitem__)):
            splits[group] = "valid" if rank < valid else "test" if rank < valid + test else "train"
    return {clip: splits[group] for clip, group in group_of.items()}


DATASET = FolderDataset()
