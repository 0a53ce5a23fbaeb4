"""Tar shards as WebDataset writes them, with an index of members, so that any member can be read directly.

A shard holds consecutive samples: `key.flac` (mp3, wav, ogg, opus, …) and optionally `key.json`; a key ends at the
first dot of the file name. Each shard is scanned once and its audio headers are read, unless the JSON gives `seconds`,
or `samples` with `sample_rate`. The index is kept in `$CARRARA_HOME/shards` until the shard changes. A remote shard is
downloaded once for the scan. A crop of a member moves the whole member's bytes (carrara/core/storage.py), so
shards suit songs; recordings of hours are better kept as files.

A damaged or truncated shard loses only what the damage covers; members before and after it are used. Each loss is
reported with its offset, as is a shard without the two zero blocks that end a tar, because one that was cut between two
members shows no other sign.
"""

from __future__ import annotations

import json
import math
import tarfile
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import IO, Any

from carrara.audio.decode import SUFFIXES
from carrara.core.errors import AudioError, DataError
from carrara.core.hashing import sha256_of_json
from carrara.core.io import atomic_write
from carrara.core.paths import home
from carrara.core.storage import local_copy, open_filesystem, suffix
from carrara.core.strict_json import parse_json, read_json_object
from carrara.data._tables import split_lines
from carrara.pretrain.corpus.durations import read_duration

FORMAT = 1
MAX_JSON_BYTES = 2**20  # of one recording's own facts
BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class ShardMember:
    """An audio file in a shard.

    Attributes:
        name: in the tar.
        offset, size: of its bytes.
        seconds: its duration; None if it cannot be read, for the reason `problem`.
        is_length_given: whether the duration is the JSON's and was not verified.
    """

    name: str
    offset: int
    size: int
    seconds: float | None
    is_length_given: bool
    problem: str = ""


@dataclass(frozen=True)
class ShardIndex:
    """The audio files of a shard in order, and a line about each damage."""

    members: tuple[ShardMember, ...]
    damage: tuple[str, ...]


def read_shard(address: str) -> ShardIndex:
    """Return the index of a shard, from the cache or by scanning the shard.

    Args:
        address: absolute path or fsspec address of a tar.

    Raises:
        AudioError: it cannot be read, or is no tar.
        StoreError: the index cannot be written.
        UsageError: fsspec cannot open it.
    """
    files, path = open_filesystem(address)
    try:
        version = str(files.ukey(path))
    except OSError as problem:
        reason = "no such file" if isinstance(problem, FileNotFoundError) else problem.strerror or str(problem)
        raise AudioError(f"{address}: cannot be read: {reason}") from None
    cache_path = home() / "shards" / f"{sha256_of_json(address)[:32]}.json"
    key = {"format": FORMAT, "shard": address, "version": version}
    cached = _read_cached(cache_path, key)
    if cached is not None:
        return cached
    with local_copy(address) as file:
        index = _scan(file, address)
    members = [astuple(member) for member in index.members]
    with atomic_write(cache_path) as temporary:
        temporary.write_text(json.dumps({**key, "damage": index.damage, "members": members}), encoding="utf-8")
    return index


def _read_cached(path: Path, key: dict[str, Any]) -> ShardIndex | None:
    try:
        content = read_json_object(path)
        if any(content[name] != value for name, value in key.items()):
            return None
        return ShardIndex(tuple(ShardMember(*row) for row in content["members"]), tuple(content["damage"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a missing or incomplete index is made again


def _scan(path: Path, address: str) -> ShardIndex:
    """Return the index of a local tar, reading the header of each audio file without a length in its JSON."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        infos = _list_members(file, size)
        if not infos:
            raise AudioError(f"{address}: no member of a tar in its {size} bytes; shards are uncompressed tars")
        damage = tuple(f"{address}: {line}" for line in _describe_damage(file, infos, size))
        complete = [info for info in infos if info.isreg() and info.offset_data + info.size <= size]
        json_infos = {info.name: info for info in complete if suffix(info.name) == ".json"}
        members = []
        for info in complete:
            if suffix(info.name) not in SUFFIXES:
                continue
            name = info.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            seconds, problem = _json_duration(file, json_infos.get(_key(info.name) + ".json")), ""
            is_length_given = seconds is not None
            if not is_length_given:
                try:
                    seconds = read_duration(str(path), info.offset_data, info.size, f"{address}/{name}")
                except AudioError as error:
                    problem = str(error)
            members.append(ShardMember(name, info.offset_data, info.size, seconds, is_length_given, problem))
    return ShardIndex(tuple(members), damage)


def _list_members(file: IO[bytes], size: int) -> list[tarfile.TarInfo]:
    """Return the members with a readable header; after a broken one, search for the next."""
    infos: list[tarfile.TarInfo] = []
    position = 0
    while position < size:
        file.seek(position)
        try:
            with tarfile.open(fileobj=file, mode="r:", ignore_zeros=True) as tar:
                for info in tar:
                    infos.append(info)
            break
        except tarfile.TarError:
            # `ignore_zeros` skips a broken header, but not one that an extended header announces.
            position = max(position + BLOCK, _round_up(file.tell()))
    return infos


def _describe_damage(file: IO[bytes], infos: list[tarfile.TarInfo], size: int) -> list[str]:
    """Return a line about each part of a tar that belongs to no member, and about a missing end."""
    lines, position = [], 0
    for info in infos:
        if not _is_zero(file, position, info.offset):
            lines.append(f"damaged from byte {position} to {info.offset}; its content is left out")
        position = _round_up(info.offset_data + info.size)
    last = infos[-1]
    if last.offset_data + last.size > size:
        lines.append(f"truncated at byte {size}, within {last.name}; it and what followed are left out")
    elif position >= size:
        lines.append(f"truncated at byte {size}, after {last.name}; what followed is left out")
    elif not _is_zero(file, position, size):
        lines.append(f"damaged from byte {position} to its end at {size}; its content is left out")
    return lines


def _round_up(position: int) -> int:
    return math.ceil(position / BLOCK) * BLOCK


def _is_zero(file: IO[bytes], begin: int, end: int) -> bool:
    while begin < end:
        file.seek(begin)
        block = file.read(min(end - begin, 2**20))
        if not block or block.count(0) < len(block):
            return False
        begin += len(block)
    return True


def read_shard_tags(address: str, field: str) -> dict[int, tuple[list[str], str]]:
    """Return the tags of each audio member, and its split ("" where none is given), by the member's offset.

    Tags are in the member's `key.json` under `field` (a string or a list; the split under `split`), else in `key.txt`,
    one a line, else the only word of `key.cls`.

    Args:
        address: absolute path or fsspec address of a tar.
        field: key of the JSON.

    Raises:
        DataError: the tags of a member are no strings.
    """
    labels: dict[int, tuple[list[str], str]] = {}
    with local_copy(address) as path, open(path, "rb") as file:
        infos = [info for info in _list_members(file, path.stat().st_size) if info.isreg()]
        by_name = {info.name: info for info in infos}
        for info in infos:
            if suffix(info.name) not in SUFFIXES:
                continue
            texts = {}
            for kind in (".json", ".txt", ".cls"):
                other = by_name.get(_key(info.name) + kind)
                if other is not None:
                    file.seek(other.offset_data)
                    texts[kind] = file.read(other.size).decode("utf-8", "replace")
            tags, split = _tags_of_texts(texts, field, f"{address}/{info.name}")
            labels[info.offset_data] = (tags, split)
    return labels


def _tags_of_texts(texts: dict[str, str], field: str, name: str) -> tuple[list[str], str]:
    content = {}
    if ".json" in texts:
        try:
            content = parse_json(texts[".json"], allow_nan=True)
        except ValueError:
            content = {}  # it may hold something else; without tags the clip is not learnt from
    content = content if isinstance(content, dict) else {}
    value = content.get(field)
    if value is None:
        value = [line.strip() for line in split_lines(texts.get(".txt", texts.get(".cls", "")))]
    tags = [value] if isinstance(value, str) else value
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise DataError(
            f"{name}: its {field} {str(value)[:40]!r} is no list of strings; choose another with --set "
            "labels.field=NAME"
        )
    return [tag for tag in tags if tag], str(content.get("split") or "")


def _key(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.split(".")[0]


def _json_duration(file: IO[bytes], info: tarfile.TarInfo | None) -> float | None:
    """Return the duration in an audio file's JSON; None if there is none."""
    if info is None or info.size > MAX_JSON_BYTES:
        return None
    file.seek(info.offset_data)
    try:
        content = parse_json(file.read(info.size))
        seconds = float(content["seconds"] if "seconds" in content else content["samples"] / content["sample_rate"])
    except (ValueError, KeyError, TypeError, ZeroDivisionError):
        return None
    return seconds if 0 < seconds < math.inf else None
