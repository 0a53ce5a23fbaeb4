"""Leaderboards and comparisons of a folder of results, for Python."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from carrara.bench.leaderboard.compare import Comparison, compare_systems
from carrara.bench.leaderboard.ranking import Leaderboard, add_published, build_leaderboards
from carrara.core.errors import UsageError, did_you_mean
from carrara.core.paths import user_path
from carrara.core.record import Record, read_records


def leaderboard(
    results: str | Path | Record | Iterable[Record] = "results",
    suite: str | None = None,
    protocol: str | None = None,
    published: bool = False,
) -> Leaderboard:
    """Return the leaderboard of a folder of records, or of records.

    Args:
        results: the folder, or the records.
        suite: all tasks of this suite and no others; needed where the records are of several.
        protocol: only records of this protocol; needed where there are several.
        published: whether to add the published systems to MARBLE's tasks.

    Raises:
        UsageError: there is no such suite or protocol, no record, or leaderboards of several suites or protocols.
        StoreError: the folder does not exist, or a file in it is not a record.
    """
    if isinstance(results, str | Path):
        results = read_records(user_path(results, "results"))
    records = list(results) if isinstance(results, Iterable) and not isinstance(results, Record) else [results]
    if not all(isinstance(record, Record) for record in records):
        raise UsageError("results: give the folder of the records, a record or a list of records")
    leaderboards = build_leaderboards(records, suite)
    if protocol is not None:
        protocols = sorted({each.protocol for each in leaderboards})
        if protocol not in protocols:
            near = did_you_mean(protocol, protocols)
            raise UsageError(f"no record of the protocol {protocol!r}.{near} The protocols: {', '.join(protocols)}.")
        leaderboards = [each for each in leaderboards if each.protocol == protocol]
    if not leaderboards:
        raise UsageError("there are no records of these tasks; carrara.bench writes some")
    if len(leaderboards) > 1:
        titles = "; ".join(f"suite={each.suite!r}, protocol={each.protocol!r}" for each in leaderboards)
        raise UsageError(f"the records make {len(leaderboards)} leaderboards; give one of: {titles}")
    return add_published(leaderboards)[0] if published else leaderboards[0]


def compare(first: str, second: str, results: str | Path = "results", suite: str | None = None) -> Comparison:
    """Return the comparison of two systems over the tasks that both have, paired over the test clips.

    Args:
        first, second: systems, named as on the leaderboard.
        results: the folder of the records.
        suite: compare only its tasks.

    Raises:
        UsageError: no such system or suite, no task that both have, or records instead of their folder.
        StoreError: the folder does not exist, or a file in it is not a record.
    """
    if not isinstance(results, str | Path):
        raise UsageError(
            "compare needs the folder of the records, which also holds the predictions: the `results` of carrara.bench"
        )
    if not isinstance(first, str) or not isinstance(second, str):
        raise UsageError("compare: give the names of two systems, as the leaderboard has them")
    folder = user_path(results, "results")
    return compare_systems(read_records(folder), first, second, folder, suite)
