"""Codes of whole files on disk: one flat file of int16, an index of JSON lines by item, only ever added to.

A teacher with a long memory (EnCodec's LSTM hears the file from its start) gives other codes for a crop than for the
file that it is cut from; MERT's labels are those of whole files, cropped. They also cost more to make than to keep:
160,000 hours at 75 frames a second and 8 books are 3.5e11 codes, 691 GB in two bytes each (1.4 TB as fairseq's text).
At the frames of the student and cropped on multiples of its hop, row `start / hop + i` is that of the crop's frame i.

Rows are found by the item's name, never by a line's number: in MERT's code labels shift when files are left out
(pretraining.md, section 4). `codes.int16` holds the rows of one item after another, `index.jsonl` a line about the
whole (format, books, what made it) and a line for each item, written after its rows. What a killed process left of an
item is cut off when the store is opened again, so filling goes on with the next item.

Letters: F frames, Q books, B batch.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from carrara.audio.decode import load
from carrara.core.errors import AudioError, StoreError, UsageError
from carrara.core.hashing import sha256_of_json
from carrara.core.progress import progress
from carrara.formats.weights import tensors_identity
from carrara.pretrain.corpus.storage import as_file
from carrara.pretrain.corpus.stream import Batch, Corpus, Item, Stream
from carrara.pretrain.targets._base import Target

FORMAT = 1
CODES, INDEX = "codes.int16", "index.jsonl"
MOST_CLASSES = 2**15


class LabelStore:
    """The codes of some items; `store.append(name, codes)` adds one, `store.rows(name, first, count)` reads."""

    def __init__(self, folder: Path, books: int, made_by: str) -> None:
        """Open a store, or begin one where there is none.

        Args:
            folder: of the two files.
            books: codes a row.
            made_by: identity of what gives the codes; a store of another is refused.

        Raises:
            StoreError: it is of something else, is damaged before its end, or cannot be written.
        """
        self.folder, self.books = Path(folder), books
        self._places: dict[str, tuple[int, int]] = {}
        self._end = 0
        head = {"format": FORMAT, "books": books, "made_by": made_by}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._codes = open(self.folder / CODES, "ab")  # noqa: SIM115 - kept open until `close`
            self._index = open(self.folder / INDEX, "ab")  # noqa: SIM115
            self._take_in(head)
        except OSError as problem:
            raise StoreError(f"{self.folder}: cannot write here ({problem.strerror or problem})") from None
        self._map: np.ndarray | None = None

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self._places)

    def __contains__(self, name: str) -> bool:
        """Return whether the store has this item."""
        return name in self._places

    def append(self, name: str, codes_FQ: np.ndarray) -> None:
        """Add an item's codes.

        Raises:
            UsageError: the item is there already, or the codes do not fit.
            StoreError: they cannot be written, for example because the disk is full; resume once there is room.
        """
        if name in self._places:
            raise UsageError(f"{self.folder}: has codes of {name} already; remove the folder to make them anew")
        if codes_FQ.ndim != 2 or codes_FQ.shape[1] != self.books:
            raise UsageError(f"{name}: codes of shape {codes_FQ.shape}, wanted (frames, {self.books})")
        if codes_FQ.size and not (codes_FQ.min() >= 0 and codes_FQ.max() < MOST_CLASSES):
            raise UsageError(f"{name}: codes from {codes_FQ.min()} to {codes_FQ.max()}; a store holds 0 to 32767")
        place = (self._end, len(codes_FQ))
        try:
            self._codes.write(np.ascontiguousarray(codes_FQ, dtype="<i2").tobytes())
            self._codes.flush()
            self._index.write(_line({"id": name, "first": place[0], "frames": place[1]}))
            self._index.flush()
        except OSError as problem:
            raise StoreError(f"{self.folder}: cannot write here ({problem.strerror}); make room and resume") from None
        self._places[name] = place
        self._end += len(codes_FQ)

    def rows(self, name: str, first: int, count: int) -> np.ndarray:
        """Return rows of an item as int16 `[≤ count, Q]`, fewer where it ends; nothing is copied.

        Raises:
            StoreError: the store has no such item.
        """
        if name not in self._places:
            raise StoreError(f"{self.folder}: has no codes of {name}; make them before training")
        begin, frames = self._places[name]
        if self._map is None or len(self._map) < begin + frames:
            self._map = np.memmap(self.folder / CODES, dtype="<i2", mode="r", shape=(self._end, self.books))
        return self._map[begin + first : begin + min(first + count, frames)]

    def close(self) -> None:
        """Put everything on the disk and let go of the files."""
        for file in (self._codes, self._index):
            file.flush()
            os.fsync(file.fileno())
            file.close()

    def _take_in(self, head: dict[str, Any]) -> None:
        """Read the index as far as it and the codes are whole, and cut off what is after that."""
        path, good = self.folder / INDEX, 0
        written = (self.folder / CODES).stat().st_size // (2 * self.books)
        with open(path, "rb") as file:
            for number, line in enumerate(file):
                try:
                    found = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    raise StoreError(f"{path}: line {number + 1} is damaged; remove {self.folder}") from None
                if found is None or (number and found["first"] + found["frames"] > written):
                    break
                if not number and found != head:
                    raise StoreError(
                        f"{self.folder}: holds codes of something else, another corpus or teacher; remove it, and "
                        "they are made anew"
                    )
                if number:
                    self._places[found["id"]] = (found["first"], found["frames"])
                    self._end = found["first"] + found["frames"]
                good += len(line)
        self._index.truncate(good)
        self._codes.truncate(self._end * 2 * self.books)
        if not good:
            self._index.write(_line(head))
            self._index.flush()


def _line(values: dict[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False).encode() + b"\n"


@torch.no_grad()
def fill(store: LabelStore, target: Target, corpus: Corpus, device: torch.device) -> list[str]:
    """Add the codes of every whole item that the store lacks, and return why items are left out.

    Stopped anywhere, the next call goes on.

    Raises:
        StoreError: they cannot be written.
    """
    left_out = []
    with progress("codes of whole files", len(corpus.items)) as advance:
        for number in range(len(corpus.items)):
            item = corpus.items[number]
            if item.id not in store:
                try:
                    samples_T = _whole(item, corpus.sample_rate)
                except AudioError as problem:
                    left_out.append(str(problem))
                else:
                    samples_1T = torch.from_numpy(samples_T)[None].to(device)
                    frames = samples_1T.shape[1] // target.grid.hop
                    store.append(item.id, target.labels(samples_1T, frames)[0].cpu().numpy())
            advance()
    return left_out


def _whole(item: Item, sample_rate: int) -> np.ndarray:
    with as_file(item.path, item.offset, item.size, "" if item.offset is None else item.id) as path:
        return load(path, sample_rate, item.start, item.samples / sample_rate)


def stores(folder: Path, targets: Mapping[str, Target], corpus: Corpus, device: torch.device) -> dict[str, LabelStore]:
    """Return a filled store for each target that is told to label whole files (`whole_files`), by its name.

    Args:
        folder: gets a folder for each store.
        targets: fitted, on the device.
        corpus: whose items are labelled.
        device: where sounds are put.

    Raises:
        StoreError: a store is of another target or corpus, or cannot be written.
    """
    made = {}
    for name, target in targets.items():
        if getattr(target.settings, "whole_files", False):
            weights = tensors_identity(target.state_dict())
            made_by = sha256_of_json([weights, asdict(target.grid), corpus.identity()])
            made[name] = LabelStore(folder / name, len(target.num_classes), made_by)
            left_out = fill(made[name], target, corpus, device)
            if left_out:
                more = f"; and {len(left_out) - 1} more" if len(left_out) > 1 else ""
                warnings.warn(f"target {name}: labelled by crops, not whole: {left_out[0]}{more}", stacklevel=2)
    return made


def of_batch(store: LabelStore, target: Target, batch: Batch, stream: Stream, frames: int) -> Tensor:
    """Return the codes of a batch's crops, int64 `[B, ≤ frames, Q]`, on the device of the target.

    An item that the store lacks, because its file cannot be read to its end, is labelled by its crop.
    """
    rows: list[Tensor] = []
    place = next(target.buffers()).device
    for samples_T, epoch, number in zip(batch.samples_BT, batch.epochs, batch.items):
        name, first = stream.corpus.items[number].id, stream.start(epoch, number) // stream.stride
        if name in store:
            rows.append(torch.from_numpy(store.rows(name, first, frames).astype(np.int64)).to(place))
        else:
            rows.append(target.labels(samples_T[None].to(place), frames)[0])
    if not rows:
        return torch.zeros(0, frames, store.books, dtype=torch.int64, device=place)
    return torch.stack([row_FQ[: min(map(len, rows))] for row_FQ in rows])
