"""Pebble on disk: render what is missing and write the index; an interrupted rendering is resumed.

Below the folder of a size: `index.jsonl` (one clip per line), `meta.json` (version, size, counts, and the identity once
everything is complete) and `audio/`, 24 kHz mono 16-bit FLAC, each file written whole or not at all. Clips are rendered
in spawned processes, so no state of the caller influences them.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import soundfile

from carrara.core.errors import DataError
from carrara.core.hashing import sha256_of_file, sha256_of_json
from carrara.core.interrupts import end_with_parent
from carrara.core.io import atomic_write, write_text
from carrara.core.progress import progress
from carrara.core.strict_json import parse_json_object, read_json_object
from carrara.data._pebble import soundfont
from carrara.data._pebble.clips import COLLECTIONS, VERSION, create_clip
from carrara.data._pebble.sizes import clip_counts
from carrara.data._pebble.soundfont import RATE

_CHUNK = 8

Entry = dict[str, Any]


def write(root: Path, size: str, counts: dict[str, int] | None = None, processes: int | None = None) -> None:
    """Render what is missing or truncated below `root`, then write the index; complete files are kept.

    Args:
        root: The folder.
        size: Name of the size.
        counts: Clips by collection instead of those of the size.
        processes: Number of processes; None for one per processor.

    Raises:
        UsageError: there is no such size.
        StoreError: the folder cannot be written.
        DataError: the soundfont is missing.
    """
    counts = clip_counts(size) if counts is None else counts
    meta: Entry = {
        "name": "pebble",
        "version": VERSION,
        "size": size,
        "counts": dict(counts),
        "sample_rate": RATE,
        "soundfont": sha256_of_file(soundfont.soundfont_path()),
    }
    _refuse_other_version(root, meta)
    jobs = [(collection, number) for collection in COLLECTIONS for number in range(counts.get(collection, 0))]
    known = {entry["id"]: entry["bytes"] for entry in _read_entries(root)} if (root / "index.jsonl").is_file() else {}
    if _is_complete(root, meta):
        return
    write_text(root / "meta.json", json.dumps(meta, indent=1) + "\n")
    chunks = [jobs[i : i + _CHUNK] for i in range(0, len(jobs), _CHUNK)]
    by_id: dict[str, Entry] = {}
    with progress(f"rendering pebble {size}", len(jobs)) as advance:
        for entries in _render_chunks(root, chunks, known, processes or os.cpu_count() or 1):
            by_id |= {entry["id"]: entry for entry in entries}
            advance(len(entries))
    index = [by_id[f"{collection}-{number:05d}"] for collection, number in jobs]
    write_text(root / "index.jsonl", "".join(json.dumps(entry, sort_keys=True) + "\n" for entry in index))
    # The number of bytes depends on the version of the FLAC library, so it is no part of the identity.
    identity = [{key: value for key, value in entry.items() if key != "bytes"} for entry in index]
    meta["identity"] = sha256_of_json(identity)
    write_text(root / "meta.json", json.dumps(meta, indent=1) + "\n")
    for leftover in (root / "audio").rglob(".*.flac"):
        leftover.unlink(missing_ok=True)


def read_index(root: Path) -> list[Entry]:
    """Return the index of a rendered size.

    Raises:
        DataError: it was not rendered completely, or by another version.
    """
    if "identity" not in _read_meta(root):
        raise DataError(f"{root} holds no complete Pebble: `carrara download pebble` renders it or resumes")
    _refuse_other_version(root, {"version": VERSION})
    return _read_entries(root)


def read_counts(root: Path) -> dict[str, int]:
    """Return the number of clips of each collection that a rendered size has.

    Raises:
        DataError: its meta.json cannot be read.
    """
    counts = _read_meta(root).get("counts")
    return dict(counts) if isinstance(counts, dict) else {}


def _read_meta(root: Path) -> Entry:
    path = root / "meta.json"
    try:
        return read_json_object(path) if path.is_file() else {}
    except (OSError, ValueError) as problem:
        raise DataError(f"{path} cannot be read ({problem}): remove it and run `carrara download pebble`") from None


def _read_entries(root: Path) -> list[Entry]:
    path = root / "index.jsonl"
    try:
        return [parse_json_object(line) for line in path.read_bytes().splitlines()]
    except (OSError, ValueError) as problem:
        raise DataError(f"{path} cannot be read ({problem}): remove it and run `carrara download pebble`") from None


def _refuse_other_version(root: Path, expected: Entry) -> None:
    """Refuse a folder of another version or soundfont, whose clips would differ."""
    meta = _read_meta(root)
    for key in {"version", "soundfont"} & expected.keys() & meta.keys():
        if meta[key] != expected[key]:
            raise DataError(
                f"{root} was rendered with another {key}: remove the folder and run `carrara download pebble` again"
            )


def _is_complete(root: Path, expected: Entry) -> bool:
    meta = _read_meta(root)
    if "identity" not in meta or any(meta.get(key) != value for key, value in expected.items()):
        return False
    return all(
        _file_bytes(root / name) == size
        for entry in _read_entries(root)
        for name, size in zip(entry["files"], entry["bytes"])
    )


def _render_chunks(
    root: Path, chunks: list[list[tuple[str, int]]], known: dict[str, list[int]], processes: int
) -> Iterator[list[Entry]]:
    """Yield the entries of each chunk when it is complete, in any order."""
    if processes == 1 or len(chunks) < 3:
        for chunk in chunks:
            yield _render_chunk(root, chunk, known)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(processes, len(chunks)), mp_context=context, initializer=end_with_parent)
    try:
        futures = []
        for chunk in chunks:
            ids = {f"{collection}-{number:05d}" for collection, number in chunk}
            futures.append(pool.submit(_render_chunk, root, chunk, {id: known[id] for id in ids & known.keys()}))
        for future in as_completed(futures):
            yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _render_chunk(root: Path, chunk: list[tuple[str, int]], known: dict[str, list[int]]) -> list[Entry]:
    """Render the clips of a chunk whose files are not complete, and return their entries of the index."""
    entries = []
    for collection, number in chunk:
        clip = create_clip(collection, number)
        paths = [root / name for name in clip.files]
        sizes = [_file_bytes(path) for path in paths]
        if clip.id in known:
            is_complete = sizes == known[clip.id]
        else:
            is_complete = all(_has_full_length(path, clip.seconds) for path in paths)
        if not is_complete:
            for path, samples in zip(paths, clip.render()):
                with atomic_write(path) as tmp:
                    soundfile.write(tmp, samples, RATE, subtype="PCM_16", format="FLAC")
        entries.append(
            {
                "id": clip.id,
                "files": list(clip.files),
                "seconds": clip.seconds,
                # "sides" is the key of version 1 of the format, which existing folders have.
                "sides": clip.splits,
                "groups": clip.groups,
                "labels": clip.labels,
                "bytes": [_file_bytes(path) for path in paths],
            }
        )
    return entries


def _file_bytes(path: Path) -> int:
    """Return the size of a file, -1 if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _has_full_length(path: Path, seconds: float) -> bool:
    """Return whether a file decodes to its full length; for clips that no index has."""
    if not path.is_file():
        return False
    try:
        samples, _ = soundfile.read(path, dtype="int16")
    except (soundfile.SoundFileError, OSError):
        return False
    return len(samples) == round(seconds * RATE)
