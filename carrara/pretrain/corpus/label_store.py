"""Codes of whole files on disk: one flat file of int16 and an index with a JSON line per item; append-only.

A causal teacher with a long memory (EnCodec's LSTM) gives other codes for a crop than for the file it is cut from;
MERT's labels are those of whole files, cropped. Storing them is also cheaper than computing them: 160,000 hours at 75
frames per second and 8 codebooks are 3.5e11 codes, 691 GB at two bytes each (1.4 TB as fairseq's text). At the
student's frame rate, with crops on multiples of its hop, row `start / hop + i` is that of the crop's frame i.

Rows are found by the item's name, never by a line number: in MERT's code, labels shift if files are left out
[notes/pretraining §4]. `codes.int16` holds the rows of one item after another; `index.jsonl` has a line about the
store (format, number of codebooks, origin) and a line per item, written after its rows. What a killed process left of
an item is cut off when the store is opened again, and filling continues with the next item. Several ranks write at the
same time, each to files of its own (rank 2 to `codes-2.int16`) and read those of all, so that any number of ranks can
go on with them.

Letters: F frames, Q codebooks, B batch.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from carrara.core.errors import AudioError, StoreError, UsageError
from carrara.core.hashing import sha256_of_json
from carrara.core.progress import progress
from carrara.core.strict_json import parse_json_object
from carrara.formats.weights import hash_tensors
from carrara.pretrain.corpus.build import Corpus
from carrara.pretrain.corpus.stream import CropBatch, CropStream
from carrara.pretrain.distributed import Dist
from carrara.pretrain.targets._base import Target

FORMAT = 1
CODES, INDEX = "codes.int16", "index.jsonl"
MAX_CLASSES = 2**15


class LabelStore:
    """The codes of some items; `append` adds those of an item, `read` returns them."""

    def __init__(self, folder: Path, num_codebooks: int, origin: str, rank: int = 0) -> None:
        """Open a store, or create it.

        Args:
            folder: of its files.
            num_codebooks: codes per row.
            origin: identity of corpus and target; a store of another origin is refused.
            rank: number of the files that this process writes.

        Raises:
            StoreError: it has another origin, is damaged before its end, or cannot be written.
        """
        self.folder, self.num_codebooks = Path(folder), num_codebooks
        self._header = {"format": FORMAT, "num_codebooks": num_codebooks, "origin": origin}
        # File of codes, first row and number of rows of each item.
        self._ranges: dict[str, tuple[str, int, int]] = {}
        self._maps: dict[str, np.ndarray] = {}
        suffix = f"-{rank}" if rank else ""
        self._own = CODES.replace(".", f"{suffix}.")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._codes = open(self.folder / self._own, "ab")  # noqa: SIM115 - open until `close`
            self._index = open(self.folder / INDEX.replace(".", f"{suffix}."), "ab")  # noqa: SIM115
            valid_bytes, self._end = self._read_index(Path(self._index.name), self._own)
            self._index.truncate(valid_bytes)
            self._codes.truncate(self._end * 2 * self.num_codebooks)
            if not valid_bytes:
                self._index.write(_json_line(self._header))
                self._index.flush()
            self.read_other_ranks()
        except OSError as problem:
            raise StoreError(f"{self.folder}: cannot write here ({problem.strerror or problem})") from None

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self._ranges)

    def __contains__(self, name: str) -> bool:
        """Return whether the store has an item."""
        return name in self._ranges

    def append(self, name: str, codes_FQ: np.ndarray) -> None:
        """Add an item's codes.

        Raises:
            UsageError: the store has the item already, or the codes do not fit.
            StoreError: they cannot be written, for example because the disk is full; resume once there is room.
        """
        if name in self._ranges:
            raise UsageError(f"{self.folder}: has codes of {name} already; remove the folder to make them again")
        if codes_FQ.ndim != 2 or codes_FQ.shape[1] != self.num_codebooks:
            raise UsageError(f"{name}: codes of shape {codes_FQ.shape}, not (frames, {self.num_codebooks})")
        if codes_FQ.size and not (codes_FQ.min() >= 0 and codes_FQ.max() < MAX_CLASSES):
            raise UsageError(f"{name}: codes from {codes_FQ.min()} to {codes_FQ.max()}; a store holds 0 to 32767")
        frames = len(codes_FQ)
        try:
            self._codes.write(np.ascontiguousarray(codes_FQ, dtype="<i2").tobytes())
            self._codes.flush()
            self._index.write(_json_line({"id": name, "first": self._end, "frames": frames}))
            self._index.flush()
        except OSError as problem:
            raise StoreError(
                f"{self.folder}: cannot write here ({problem.strerror}); make room and go on with --resume"
            ) from None
        self._ranges[name] = (self._own, self._end, frames)
        self._end += frames

    def read(self, name: str, first: int, count: int) -> np.ndarray:
        """Return rows of an item as an int16 view `[≤ count, Q]`, fewer where the item ends.

        Raises:
            StoreError: the store does not have the item.
        """
        if name not in self._ranges:
            raise StoreError(f"{self.folder}: has no codes of {name}; make them before training")
        file, begin, frames = self._ranges[name]
        if file not in self._maps or len(self._maps[file]) < begin + frames:
            path = self.folder / file
            rows = path.stat().st_size // (2 * self.num_codebooks)
            self._maps[file] = np.memmap(path, dtype="<i2", mode="r", shape=(rows, self.num_codebooks))
        return self._maps[file][begin + first : begin + min(first + count, frames)]

    def close(self) -> None:
        """Flush both files to disk and close them."""
        for file in (self._codes, self._index):
            file.flush()
            os.fsync(file.fileno())
            file.close()

    def read_other_ranks(self) -> None:
        """Read what other ranks have written so far.

        Raises:
            StoreError: it has another origin, or is damaged before its end.
        """
        for path in sorted(self.folder.glob(INDEX.replace(".", "*."))):
            codes = CODES.replace(".", f"{path.stem.removeprefix(Path(INDEX).stem)}.")
            if codes != self._own:
                self._read_index(path, codes)

    def _read_index(self, path: Path, codes: str) -> tuple[int, int]:
        """Read an index as far as it and its codes are complete, and return its bytes and their rows."""
        valid_bytes, end = 0, 0
        written_rows = (self.folder / codes).stat().st_size // (2 * self.num_codebooks)
        with open(path, "rb") as file:
            for number, line in enumerate(file):
                try:
                    entry = parse_json_object(line) if line.endswith(b"\n") else None
                    if entry is not None and number:
                        _check_entry(entry)
                except (ValueError, KeyError):
                    raise StoreError(f"{path}: line {number + 1} is damaged; remove {self.folder}") from None
                if entry is None or (number and entry["first"] + entry["frames"] > written_rows):
                    break
                if number:
                    self._ranges[entry["id"]] = (codes, entry["first"], entry["frames"])
                    end = entry["first"] + entry["frames"]
                elif entry != self._header:
                    raise StoreError(
                        f"{self.folder}: holds codes of another corpus or target; remove it, and they are made again"
                    )
                valid_bytes += len(line)
        return valid_bytes, end


def _check_entry(entry: dict[str, Any]) -> None:
    """Raise a ValueError or KeyError unless a line of an index names an item and its frames."""
    first, frames = entry["first"], entry["frames"]
    if (
        not (isinstance(entry["id"], str) and isinstance(first, int) and isinstance(frames, int))
        or min(first, frames) < 0
    ):
        raise ValueError("not the line of an item")


def _json_line(values: dict[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False).encode() + b"\n"


@torch.no_grad()
def fill_label_store(store: LabelStore, target: Target, corpus: Corpus, dist: Dist | None = None) -> list[str]:
    """Add the codes of this rank's part of the items that the store lacks, and return why some cannot be read.

    After an interruption, the next call continues.

    Raises:
        StoreError: they cannot be written.
    """
    dist, problems = dist or Dist(), []
    missing = [index for index in range(len(corpus.items)) if corpus.items[index].id not in store]
    own = missing[dist.rank :: dist.world_size]
    bar: Any = progress("codes of whole files", len(own)) if dist.is_main else nullcontext(lambda: None)
    with bar as advance:
        for index in own:
            item = corpus.items[index]
            try:
                samples_T = item.load(corpus.sample_rate, 0.0, item.samples / corpus.sample_rate)
            except AudioError as problem:
                problems.append(str(problem))
            else:
                samples_1T = torch.from_numpy(samples_T)[None].to(dist.device)
                frames = samples_1T.shape[1] // target.grid.hop
                store.append(item.id, target.labels(samples_1T, frames)[0].cpu().numpy())
            advance()
    return problems


def open_label_stores(
    folder: Path, targets: Mapping[str, Target], corpus: Corpus, dist: Dist | None = None
) -> dict[str, LabelStore]:
    """Return a filled store for each target with `whole_files`, by the target's name; all ranks fill it together.

    Args:
        folder: gets a folder for each store.
        targets: fitted, on the device.
        corpus: whose items are labelled.
        dist: the ranks; None means one process on the CPU.

    Raises:
        StoreError: a store belongs to another target or corpus, or cannot be written.
    """
    whole = {name: target for name, target in targets.items() if getattr(target.settings, "whole_files", False)}
    return {name: _open_filled_store(folder / name, target, corpus, dist or Dist()) for name, target in whole.items()}


def _open_filled_store(folder: Path, target: Target, corpus: Corpus, dist: Dist) -> LabelStore:
    origin = sha256_of_json([hash_tensors(target.state_dict()), asdict(target.grid), corpus.identity()])
    stores: list[LabelStore] = []
    # Every rank has read what there is before any of them adds to it.
    dist.on_all_ranks(lambda: stores.append(LabelStore(folder, len(target.num_classes), origin, dist.rank)))
    problems = dist.on_all_ranks(lambda: fill_label_store(stores[0], target, corpus, dist))
    stores[0].read_other_ranks()
    unreadable = [problem for share in problems for problem in share]
    if unreadable and dist.is_main:
        more = f"; and {len(unreadable) - 1} more" if len(unreadable) > 1 else ""
        warnings.warn(f"target {folder.name}: labelled by crops, not whole: {unreadable[0]}{more}", stacklevel=2)
    return stores[0]


def read_batch_labels(store: LabelStore, target: Target, batch: CropBatch, stream: CropStream, frames: int) -> Tensor:
    """Return the codes of a batch's crops, int64 `[B, ≤ frames, Q]`, on the target's device.

    An item that the store lacks, because its file cannot be read to its end, is labelled from its crop.
    """
    rows: list[Tensor] = []
    device = next(target.buffers()).device
    for samples_T, epoch, index in zip(batch.samples_BT, batch.epochs, batch.item_indices):
        name, first = stream.corpus.items[index].id, stream.crop_start(epoch, index) // stream.stride
        if name in store:
            rows.append(torch.from_numpy(store.read(name, first, frames).astype(np.int64)).to(device))
        else:
            rows.append(target.labels(samples_T[None].to(device), frames)[0])
    if not rows:
        return torch.zeros(0, frames, store.num_codebooks, dtype=torch.int64, device=device)
    return torch.stack([row_FQ[: min(map(len, rows))] for row_FQ in rows])
