"""Pebble on disk: sizes, the index, and rendering that can be stopped anywhere and goes on where it was.

Below the folder of a size: `index.jsonl` (one clip a line), `meta.json` (version, size, counts; the identity is added
when all is there) and `audio/`. Sounds are 24 kHz mono 16-bit FLAC, each written whole or not at all. Clips are shared
out to processes started afresh (spawn), so nothing of the caller leaks into them and Ctrl-C ends them with the caller.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import soundfile

from carrara.core.errors import DataError
from carrara.core.hashing import sha256_of_file, sha256_of_json
from carrara.core.io import atomic_write, write_text
from carrara.core.progress import progress
from carrara.data._pebble import soundfont
from carrara.data._pebble.clips import COLLECTIONS, VERSION, Piece, piece
from carrara.data._pebble.sizes import counts
from carrara.data._pebble.soundfont import RATE

_CHUNK = 8

Entry = dict[str, Any]


def write(root: Path, size: str, many: dict[str, int] | None = None, processes: int | None = None) -> None:
    """Render what is missing or cut short below `root`, then write the index; whole files are left as they are.

    `many` replaces the counts of the size (any of its collections), `processes` the number of processors.

    Raises:
        UsageError: no such size.
        StoreError: the folder cannot be written.
        DataError: the soundfont is missing.
    """
    wanted = counts(size) if many is None else many
    described = _described(size, wanted)
    _refuse_another(root, described)
    jobs = [(name, number) for name in COLLECTIONS for number in range(wanted.get(name, 0))]
    known = {entry["id"]: entry["bytes"] for entry in _entries(root)} if (root / "index.jsonl").is_file() else {}
    if _complete(root, described):
        return
    write_text(root / "meta.json", json.dumps(described, indent=1) + "\n")
    chunks = [jobs[i : i + _CHUNK] for i in range(0, len(jobs), _CHUNK)]
    made: dict[str, Entry] = {}
    with progress(f"rendering pebble {size}", len(jobs)) as advance:
        for entries in _shared_out(root, chunks, known, processes or os.cpu_count() or 1):
            made |= {entry["id"]: entry for entry in entries}
            advance(len(entries))
    index = [made[f"{name}-{number:05d}"] for name, number in jobs]
    write_text(root / "index.jsonl", "".join(json.dumps(entry, sort_keys=True) + "\n" for entry in index))
    described["identity"] = sha256_of_json([_told(entry) for entry in index])
    write_text(root / "meta.json", json.dumps(described, indent=1) + "\n")
    for draft in (root / "audio").rglob(".*.flac"):
        draft.unlink(missing_ok=True)


def read(root: Path) -> list[Entry]:
    """Return the index of a rendered size.

    Raises:
        DataError: it was not rendered to its end, or by another version.
    """
    meta = _meta(root)
    if "identity" not in meta:
        raise DataError(
            f"{root} holds no finished Pebble: `carrara download pebble` makes it, or goes on where it stopped"
        )
    _refuse_another(root, {"version": VERSION})
    return _entries(root)


def _meta(root: Path) -> Entry:
    file = root / "meta.json"
    try:
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError) as problem:
        raise DataError(f"{file} cannot be read ({problem}): remove it and run `carrara download pebble`") from None


def _refuse_another(root: Path, described: Entry) -> None:
    """Refuse a folder begun by another version or with another soundfont: its clips would be taken for ours."""
    meta = _meta(root)
    for key in {"version", "soundfont"} & described.keys() & meta.keys():
        if meta[key] != described[key]:
            raise DataError(
                f"{root} was made with another {key}: remove the folder and run `carrara download pebble` again"
            )


def _entries(root: Path) -> list[Entry]:
    file = root / "index.jsonl"
    try:
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as problem:
        raise DataError(f"{file} cannot be read ({problem}): remove it and run `carrara download pebble`") from None


def _described(size: str, wanted: dict[str, int]) -> dict[str, Any]:
    return {
        "name": "pebble",
        "version": VERSION,
        "size": size,
        "counts": dict(wanted),
        "sample_rate": RATE,
        "soundfont": sha256_of_file(soundfont.path()),
    }


def _told(entry: Entry) -> Entry:
    """Return what identifies a clip: all but the number of bytes, which the FLAC library's version decides."""
    return {key: value for key, value in entry.items() if key != "bytes"}


def _complete(root: Path, described: Entry) -> bool:
    meta = _meta(root)
    if "identity" not in meta or any(meta.get(key) != value for key, value in described.items()):
        return False
    return all(
        _size(root / name) == length for entry in _entries(root) for name, length in zip(entry["files"], entry["bytes"])
    )


def _shared_out(root: Path, chunks: list[list[tuple[str, int]]], known: dict[str, list[int]], processes: int) -> Any:
    """Yield the entries of each chunk as it is finished, in any order."""
    if processes == 1 or len(chunks) < 3:
        for chunk in chunks:
            yield _rendered(root, chunk, known)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(processes, len(chunks)), mp_context=context, initializer=_follow_parent)
    try:
        waiting: list[Future[list[Entry]]] = []
        for chunk in chunks:
            ids = {f"{name}-{number:05d}" for name, number in chunk}
            waiting.append(pool.submit(_rendered, root, chunk, {id: known[id] for id in ids & known.keys()}))
        for done in as_completed(waiting):
            yield done.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _follow_parent() -> None:
    """Leave Ctrl-C to the parent, which lets the clips in hand be finished, and end when the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _rendered(root: Path, chunk: list[tuple[str, int]], known: dict[str, list[int]]) -> list[Entry]:
    return [_render(root, piece(*job), known) for job in chunk]


def _render(root: Path, made: Piece, known: dict[str, list[int]]) -> Entry:
    """Render a clip unless all its files are whole, and return its line of the index."""
    files = [root / name for name in made.files]
    expected = known.get(made.id)
    sizes = [_size(file) for file in files]
    whole_already = sizes == expected if expected else all(_decodes(file, made.seconds) for file in files)
    if not whole_already:
        for file, samples in zip(files, made.sound()):
            with atomic_write(file) as draft:
                soundfile.write(draft, samples, RATE, subtype="PCM_16", format="FLAC")
    return {
        "id": made.id,
        "files": list(made.files),
        "seconds": made.seconds,
        "sides": made.sides,
        "groups": made.groups,
        "labels": made.labels,
        "bytes": [_size(file) for file in files],
    }


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return -1


def _decodes(file: Path, seconds: float) -> bool:
    """Return whether a file decodes to its full length; asked only where no index tells how long it should be."""
    if not file.is_file():
        return False
    try:
        samples, _ = soundfile.read(file, dtype="int16")
    except (soundfile.SoundFileError, OSError):
        return False
    return len(samples) == round(seconds * RATE)
