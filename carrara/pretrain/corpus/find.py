"""Files, folders, manifests and tar shards to the corpus they mean.

Items too short for a crop are left out and counted, those that cannot be read are left out with a line each, of which
the first is warned of; nothing takes their place. Lengths come from the heads of the files, or are taken on trust from
a manifest or a shard's JSON, and counted as `trusted`.

Letters: N items.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from carrara.audio.decode import SUFFIXES
from carrara.core.errors import AudioError, DataError
from carrara.core.progress import progress
from carrara.pretrain.corpus import manifest
from carrara.pretrain.corpus.length import seconds_of
from carrara.pretrain.corpus.storage import absolute, address, below, expanded, is_remote, suffix
from carrara.pretrain.corpus.table import COLUMNS, Corpus, Items
from carrara.pretrain.corpus.tar_shards import Shard, shard

if TYPE_CHECKING:
    import pyarrow

READERS, CHUNK = 8, 4096
TAR = ".tar"
# A length in samples that went through seconds may come out a hair below a whole number.
ROUNDING = 1e-6

One = TypeVar("One")
Other = TypeVar("Other")


def find(paths: Sequence[str | Path], sample_rate: int, crop: int) -> Corpus:
    """Return the corpus of files, folders, manifests (.parquet, .csv) and tar shards; only heads are read.

    Args:
        paths: paths and addresses of fsspec; `{000000..000123}` stands for every number of a range.
        sample_rate: of the network, in Hz.
        crop: samples of a crop.

    Raises:
        DataError: a path does not exist, no file has sound in it, none is as long as a crop, or two have one name.
        UsageError: an address that fsspec cannot open.
        StoreError: the index of a shard cannot be written.
    """
    import pyarrow
    from pyarrow import compute

    given = [one for path in paths for one in expanded(address(path))]
    manifests = [one for one in given if suffix(one) in manifest.SUFFIXES]
    named = _named([one for one in given if suffix(one) not in manifest.SUFFIXES])
    if not named and not manifests:
        raise DataError(f"{', '.join(given[:3])}: no audio file in it; known are {' '.join(sorted(SUFFIXES))} and .tar")
    problems: list[str] = []
    tars = {place: name for place, name in named.items() if suffix(place) == TAR}
    files = {place: name for place, name in named.items() if suffix(place) != TAR}
    parts = [_of_files(files, problems), _of_shards(tars, problems)]
    parts += [_of_manifest(place, problems) for place in manifests]
    table = pyarrow.concat_tables(parts)
    samples_N = np.floor(table["seconds"].to_numpy() * sample_rate + ROUNDING).astype(np.int64)
    long_N = samples_N >= crop
    short = int((~long_N).sum())
    if not long_N.any():
        first = f"; the first: {problems[0]}" if problems else ""
        raise DataError(
            f"{', '.join(given[:3])}: no file is as long as a crop of {crop / sample_rate:g} s "
            f"({short} shorter, {len(problems)} unreadable{first}); give longer audio, or lower crop_seconds"
        )
    if problems:
        more = f"; and {len(problems) - 1} more of the corpus, see its run.json" if len(problems) > 1 else ""
        warnings.warn(f"left out: {problems[0]}{more}", stacklevel=2)
    _see_unique(table["id"])
    order = compute.sort_indices(table, [(key, "ascending") for key in ("unit", "path", "offset")])
    order = order.filter(pyarrow.array(long_N).take(order))
    trusted = int((table["told"].to_numpy() & long_N).sum())
    table = table.append_column("samples", [samples_N]).select(COLUMNS).take(order)
    return Corpus(Items(table), sample_rate, short, tuple(problems), trusted)


def _rows(**columns: object) -> pyarrow.Table:
    """Return rows of the unsorted table; `unit` is what sorts, the name of the file or of the shard."""
    import pyarrow

    text = pyarrow.large_string()
    types = {"id": text, "unit": text, "path": text, "start": pyarrow.float64(), "seconds": pyarrow.float64()}
    types |= {"offset": pyarrow.int64(), "size": pyarrow.int64(), "told": pyarrow.bool_()}
    return pyarrow.table({name: pyarrow.array(columns[name], kind) for name, kind in types.items()})


def _named(places: Sequence[str]) -> dict[str, str]:
    """Return every sound file and shard by its address, with its name below the folder that was given."""
    found: dict[str, str] = {}
    single = []
    for place in places:
        inside = None if is_remote(place) and suffix(place) in {TAR, *SUFFIXES} else below(place)
        if inside is not None:
            kinds = {TAR, *SUFFIXES}
            found.update({each: name for name, each in inside.items() if suffix(name) in kinds})
        elif is_remote(place) or Path(place).exists():
            found[place] = ""
            single.append(absolute(place).rpartition("/")[0] + "/")
        else:
            raise DataError(f"{place}: there is no such file or folder; --corpus takes both")
    root = os.path.commonprefix(single).rpartition("/")[0] + "/" if single else ""  # noqa: RUF071 - cut at a slash
    return {place: name or absolute(place).removeprefix(root) for place, name in found.items()}


def _see_unique(id: pyarrow.ChunkedArray) -> None:
    """Raise a `DataError` where two items have one name: labels are kept by the name."""
    from pyarrow import compute

    if compute.count_distinct(id).as_py() == len(id):
        return
    counts = compute.value_counts(id)
    twice = counts.filter(compute.greater(counts.field("counts"), 1)).field("values")[0]
    raise DataError(f"two sounds of the corpus are called {twice}; give the folder above both, or a manifest with ids")


def _of_files(files: dict[str, str], problems: list[str]) -> pyarrow.Table:
    """Return a row for each file whose head can be read."""
    heads = _each(_or_reason(seconds_of), list(files), "reading the heads of the files")
    read = [(place, name, head) for (place, name), head in zip(files.items(), heads)]
    problems += [head for _, _, head in read if isinstance(head, str)]
    good = [(place, name, head) for place, name, head in read if not isinstance(head, str)]
    count, names = len(good), [name for _, name, _ in good]
    return _rows(
        id=names, unit=names, path=[place for place, _, _ in good], start=np.zeros(count),
        seconds=[head for _, _, head in good], offset=[None] * count, size=[None] * count, told=[False] * count,
    )  # fmt: skip


def _of_shards(tars: dict[str, str], problems: list[str]) -> pyarrow.Table:
    """Return a row for each member of the shards whose head can be read."""
    import pyarrow

    tables = [_rows(id=[], unit=[], path=[], start=[], seconds=[], offset=[], size=[], told=[])]
    for place, found in zip(tars, _each(_or_reason(_shard), list(tars), "reading the heads of the shards")):
        if isinstance(found, str):
            problems.append(found)
            continue
        problems += [*found.damage, *(each.problem for each in found.members if each.problem)]
        good, name = [each for each in found.members if each.seconds is not None], tars[place]
        count = len(good)
        tables.append(
            _rows(
                id=[f"{name}/{each.name}" for each in good], unit=[name] * count, path=[place] * count,
                start=np.zeros(count), seconds=[each.seconds for each in good], told=[each.told for each in good],
                offset=[each.offset for each in good], size=[each.size for each in good],
            )
        )  # fmt: skip
    return pyarrow.concat_tables(tables)


def _shard(place: str) -> Shard:
    return shard(absolute(place))


def _of_manifest(place: str, problems: list[str]) -> pyarrow.Table:
    """Return the rows of a manifest; heads are read only for those whose length it does not tell."""
    import pyarrow

    found = manifest.rows(place)
    problems += found.problems
    length_N, untold_N = found.length_N.copy(), np.isnan(found.length_N)
    reasons: dict[str, str] = {}
    if untold_N.any():
        untold = found.path.filter(pyarrow.array(untold_N)).to_pylist()
        once = list(dict.fromkeys(untold))
        heads = dict(zip(once, _each(_or_reason(seconds_of), once, "reading the heads of the files")))
        reasons = {path: head for path, head in heads.items() if isinstance(head, str)}
        wholes = [head if isinstance(head, float) else np.nan for head in map(heads.__getitem__, untold)]
        length_N[untold_N] = np.array(wholes) - found.start_N[untold_N]
    problems += reasons.values()
    none = pyarrow.nulls(len(length_N), pyarrow.int64())
    table = _rows(
        id=found.id, unit=found.id, path=found.path, start=found.start_N, seconds=length_N,
        offset=none, size=none, told=~untold_N,
    )  # fmt: skip
    return table.filter(pyarrow.array(~np.isnan(length_N))) if reasons else table


def _or_reason(work: Callable[[str], One]) -> Callable[[str], One | str]:
    """Return the same work, that gives the line of an `AudioError` instead of raising it."""

    def careful(place: str) -> One | str:
        try:
            place.encode()
            return work(place)
        except UnicodeEncodeError:
            return f"{ascii(place)[1:-1]}: its name is not UTF-8; rename it"
        except AudioError as problem:
            return str(problem)

    return careful


def _each(work: Callable[[One], Other], things: Sequence[One], title: str) -> Iterator[Other]:
    """Yield what the work gives for each thing, in order; threads share it."""
    with ThreadPoolExecutor(min(READERS, os.cpu_count() or 1)) as pool, progress(title, len(things)) as advance:
        try:
            for begin in range(0, len(things), CHUNK):
                for result in pool.map(work, things[begin : begin + CHUNK]):
                    yield result
                    advance()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
