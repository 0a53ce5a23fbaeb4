"""Anyone's own recordings: a folder with `labels.csv` or `labels.jsonl`, one clip a line.

Columns (keys, in JSON lines): `path` of the sound file, absolute or from the folder; optionally `id`, `split` (train,
valid, test; empty: on no side), `group` (what must not straddle splits: song, singer, artist), `start` and `duration`
in seconds. Every other column is a label. In a CSV a column headed `tags[]` holds a list with semicolons between, and
becomes the label `tags`; JSON lines hold lists, numbers and objects as they are.

Named splits: `given` where there is a column `split`; else `hashed`: by the SHA-1 of the group (of the path, where
there is none) modulo 10, 0 to 6 train, 7 valid, 8 and 9 test, so that a split never changes as a folder grows.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from carrara.core.clip import SPLITS, Clip, Split
from carrara.core.errors import DataError, UsageError, did_you_mean
from carrara.data._base import Dataset

FILES = ("labels.csv", "labels.jsonl")
OWN = ("path", "id", "split", "group", "start", "duration")
LIST = "[]"
TRAIN_TENTHS, VALID_TENTHS = 7, 8


class FolderDataset(Dataset):
    """A folder of recordings with a file of labels; its root is the folder itself."""

    name = "folder"
    title = "a folder of one's own"
    license = "as its owner says"
    commercial_use = None
    citation = "none: private data"
    source = "your own folder with labels.csv or labels.jsonl in it; `carrara show folder` tells the columns"
    manual_steps = (
        "1. Put the recordings into one folder.\n"
        "2. Write labels.csv beside them: path,split,<label>,… with one line a recording.\n"
        "3. carrara check folder --data-dir FOLDER"
    )

    def __init__(self, root: Path | None = None) -> None:
        """Make the dataset of a folder; none: of whichever folder a person names."""
        self.place = root

    def root(self, data_dir: Path | None = None) -> Path:
        """Return the folder: the dataset's own, or else `data_dir`.

        Raises:
            UsageError: neither is known.
        """
        if self.place is None and data_dir is None:
            raise UsageError("the dataset 'folder' is any folder: name it with --data-dir FOLDER")
        return Path(self.place or data_dir or ".")

    def index(self, root: Path) -> list[Clip]:
        """Return a clip a line, in the order of the lines; see the base class."""
        clips: dict[str, Clip] = {}
        for where, row in _rows(_file(root)):
            clip = _clip(root, row, where)
            if clip.id in clips:
                raise DataError(f"{where}: a second clip called {clip.id!r}; give each line an id of its own")
            clips[clip.id] = clip
        return list(clips.values())

    def splits(self, root: Path) -> dict[str, dict[str, Split]]:
        """Return the sides as given, or else as hashed; see the base class."""
        clips = self.index(root)
        if any(clip.split for clip in clips):
            return {"given": {clip.id: clip.split for clip in clips if clip.split}}
        return {"hashed": {clip.id: _hashed(clip.group or clip.id) for clip in clips}}


def _file(root: Path) -> Path:
    for name in FILES:
        if (Path(root) / name).is_file():
            return Path(root) / name
    raise DataError(f"{root}: neither {' nor '.join(FILES)} in it; `carrara show folder` tells what to write")


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield where each line stands and what it holds."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({problem})") from None
    yield from _json_rows(path, text) if path.suffix == ".jsonl" else _csv_rows(path, text)


def _json_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as problem:
            raise DataError(f"{where}: not JSON ({problem.msg})") from None
        if not isinstance(row, dict):
            raise DataError(f"{where}: not a JSON object")
        yield where, row


def _csv_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    rows = csv.reader(text.splitlines())
    head = [name.strip() for name in next(rows, [])]
    if "path" not in head or len(set(head)) < len(head):
        raise DataError(f"{path}, line 1: the first line names the columns, each once, and one of them is path")
    for values in rows:
        where = f"{path}, line {rows.line_num}"
        if not any(value.strip() for value in values):
            continue
        if len(values) != len(head):
            raise DataError(f"{where}: {len(values)} values for {len(head)} columns; quote values that have commas")
        row: dict[str, Any] = {}
        for name, value in zip(head, map(str.strip, values)):
            if name.endswith(LIST):
                row[name.removesuffix(LIST)] = [part.strip() for part in value.split(";") if part.strip()]
            elif value:
                row[name] = value
        yield where, row


def _clip(root: Path, row: Mapping[str, Any], where: str) -> Clip:
    if not isinstance(row.get("path"), str) or not row["path"]:
        raise DataError(f"{where}: no path of a sound file")
    split = row.get("split")
    if split is not None and split not in SPLITS:
        raise DataError(
            f"{where}: split {split!r} is not one of {', '.join(SPLITS)}.{did_you_mean(str(split), SPLITS)}"
        )
    start, duration = _seconds(row, "start", where), _seconds(row, "duration", where)
    stretch = (f"@{start:g}" if start else "") + (f"+{duration:g}" if duration else "")
    return Clip(
        id=str(row.get("id") or row["path"] + stretch),
        path=Path(root) / row["path"],
        start=start or 0.0,
        duration=duration,
        split=split,
        group=None if row.get("group") is None else str(row["group"]),
        labels={name: value for name, value in row.items() if name not in OWN},
    )


def _seconds(row: Mapping[str, Any], name: str, where: str) -> float | None:
    if row.get(name) is None:
        return None
    try:
        value = float(row[name])
    except (TypeError, ValueError):
        value = -1.0
    if not 0 <= value < float("inf") or (name == "duration" and value == 0):
        raise DataError(f"{where}: {name} {row[name]!r} is not a length in seconds")
    return value


def _hashed(key: str) -> Split:
    tenth = int(hashlib.sha1(key.encode()).hexdigest(), 16) % 10
    return "train" if tenth < TRAIN_TENTHS else "valid" if tenth < VALID_TENTHS else "test"


DATASET = FolderDataset()
