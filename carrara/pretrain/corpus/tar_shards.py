"""Tar shards as WebDataset writes them, with an index of members so that any of them is one read away.

A shard holds samples in a row: `key.flac` (mp3, wav, ogg, opus, …) and perhaps `key.json`, where a key ends at the
first dot of the file name. A shard is walked once, its sounds' heads are read (where the JSON says `seconds`, or
`samples` with `sample_rate`, that is trusted instead), and the index is kept in `$CARRARA_HOME/shards` until the shard
changes. A remote shard is fetched whole for this, once. As a crop of a member moves the member's bytes
(`carrara/pretrain/corpus/storage.py`), songs suit shards, recordings of hours are better off as files.

A shard that is damaged or cut short loses only what the damage covers: members before and after it are used. What is
lost is told in one line with its offset, as is a shard without the two blocks of zeros that end a tar: nobody else
would notice one that was cut between two members.
"""

from __future__ import annotations

import json
import math
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from carrara.audio.decode import SUFFIXES
from carrara.core.errors import AudioError
from carrara.core.hashing import sha256_of_json
from carrara.core.io import atomic_write
from carrara.core.paths import home
from carrara.pretrain.corpus.length import seconds_of
from carrara.pretrain.corpus.storage import as_file, filesystem, suffix

FORMAT = 1
BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Member:
    """A sound in a shard: name, place in bytes, length in seconds, and whether that is the JSON's word.

    `seconds` is none where the sound cannot be read, for the reason `problem`.
    """

    name: str
    offset: int
    size: int
    seconds: float | None
    told: bool
    problem: str = ""


@dataclass(frozen=True)
class Shard:
    """The sounds of a shard in the order of their places, and a line for each damage."""

    members: tuple[Member, ...]
    damage: tuple[str, ...]


def shard(place: str) -> Shard:
    """Return a shard's index: the one kept, or else one made now and kept.

    Args:
        place: absolute path or address of a tar.

    Raises:
        AudioError: it cannot be read, or is no tar.
        StoreError: the index cannot be written.
        UsageError: fsspec cannot open it.
    """
    files, inside = filesystem(place)
    try:
        version = str(files.ukey(inside))
    except OSError as problem:
        reason = "no such file" if isinstance(problem, FileNotFoundError) else problem.strerror or str(problem)
        raise AudioError(f"{place}: cannot be read: {reason}") from None
    path = home() / "shards" / f"{sha256_of_json(place)[:32]}.json"
    made = {"format": FORMAT, "shard": place, "version": version}
    kept = _kept(path, made)
    if kept is not None:
        return kept
    with as_file(place) as file:
        found = _walked(file, place)
    rows = [[each.name, each.offset, each.size, each.seconds, each.told, each.problem] for each in found.members]
    with atomic_write(path) as draft:
        draft.write_text(json.dumps({**made, "damage": found.damage, "members": rows}), encoding="utf-8")
    return found


def _kept(path: Path, made: dict[str, Any]) -> Shard | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if any(found[key] != value for key, value in made.items()):
            return None
        return Shard(tuple(Member(*row) for row in found["members"]), tuple(found["damage"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # an index that is not there, or not whole, is made again


def _walked(path: Path, place: str) -> Shard:
    """Walk a tar and read the heads of its sounds."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        infos = _infos(file, size)
        if not infos:
            raise AudioError(
                f"{place}: no member of a tar can be found in its {size} bytes; shards are uncompressed tars"
            )
        damage = tuple(f"{place}: {line}" for line in _damage(file, infos, size))
        regular = [info for info in infos if info.isreg() and info.offset_data + info.size <= size]
        notes = {info.name: info for info in regular if suffix(info.name) == ".json"}
        members = []
        for info in regular:
            if suffix(info.name) in SUFFIXES:
                seconds = _told(file, notes.get(_key(info.name) + ".json"))
                members.append(_member(path, place, info, seconds))
    return Shard(tuple(members), damage)


def _infos(file: IO[bytes], size: int) -> list[tarfile.TarInfo]:
    """Return the members whose heads can be read; after a broken head the next whole one is looked for."""
    found: list[tarfile.TarInfo] = []
    position = 0
    while position < size:
        file.seek(position)
        try:
            with tarfile.open(fileobj=file, mode="r:", ignore_zeros=True) as tar:
                for info in tar:
                    found.append(info)
            break
        except tarfile.TarError:
            # `ignore_zeros` passes over a broken head, but not over one that an extended head announces.
            position = max(position + BLOCK, _padded(file.tell()))
    return found


def _damage(file: IO[bytes], infos: list[tarfile.TarInfo], size: int) -> list[str]:
    """Return a line for each stretch of a tar that belongs to no member, and for an end that is missing."""
    lines, position = [], 0
    for info in infos:
        if not _zeros(file, position, info.offset):
            lines.append(f"damaged from byte {position} to {info.offset}; what stood there is left out")
        position = _padded(info.offset_data + info.size)
    last = infos[-1]
    if last.offset_data + last.size > size:
        lines.append(f"cut short at byte {size}, within {last.name}; it and what followed are left out")
    elif position >= size:
        lines.append(f"cut short at byte {size}, after {last.name}; what followed is left out")
    elif not _zeros(file, position, size):
        lines.append(f"damaged from byte {position} to its end at {size}; what stood there is left out")
    return lines


def _padded(position: int) -> int:
    return math.ceil(position / BLOCK) * BLOCK


def _zeros(file: IO[bytes], begin: int, end: int) -> bool:
    while begin < end:
        file.seek(begin)
        block = file.read(min(end - begin, 2**20))
        if not block or block.count(0) < len(block):
            return False
        begin += len(block)
    return True


def _key(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.split(".")[0]


def _told(file: IO[bytes], note: tarfile.TarInfo | None) -> float | None:
    """Return the length that a sound's JSON tells; none where it tells none."""
    if note is None:
        return None
    file.seek(note.offset_data)
    try:
        said = json.loads(file.read(note.size))
        seconds = float(said["seconds"] if "seconds" in said else said["samples"] / said["sample_rate"])
    except (ValueError, KeyError, TypeError, ZeroDivisionError):
        return None
    return seconds if 0 < seconds < math.inf else None


def _member(path: Path, place: str, info: tarfile.TarInfo, told: float | None) -> Member:
    name = info.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    seconds, problem = told, ""
    if told is None:
        try:
            seconds = seconds_of(str(path), info.offset_data, info.size, f"{place}/{name}")
        except AudioError as reason:
            problem = str(reason)
    return Member(name, info.offset_data, info.size, seconds, told is not None, problem)
