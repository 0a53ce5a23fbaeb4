"""Write the static site of a leaderboard: pages from `assets/`, data as JSON, and a copy of every record.

Browsers refuse to fetch files for a page that was opened from a folder, so each JSON file has a twin that a script
element can load: `data/leaderboard.json` and `data/leaderboard.js`, which passes the same value to `carraraData`.
What only one page needs is a file of its own, loaded when that page is opened.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from carrara.bench.leaderboard.published import DEFAULT_SOURCES
from carrara.bench.leaderboard.ranking import add_published, build_leaderboards, name_systems
from carrara.bench.site.board_data import board_data, slug_names, system_data, system_details
from carrara.bench.site.sound import FOLDER, add_sound
from carrara.bench.site.task_data import PairComparisons, compare_and_count
from carrara.bench.suites import MARBLE_14
from carrara.core import __version__
from carrara.core.errors import StoreError
from carrara.core.io import write_text
from carrara.core.printable import one_line, printable
from carrara.core.progress import progress
from carrara.core.record import Record

ASSETS = Path(__file__).parent / "assets"
INDEX = "leaderboard"
OWN_FOLDERS = ("data", "records", FOLDER)


@dataclass(frozen=True)
class SiteSummary:
    """What was written: the page to open, and the numbers of systems, tasks, records and compared pairs."""

    page: Path
    systems: int
    tasks: int
    records: int
    pairs: int


def write_site(
    folder: Path,
    records: Sequence[Record],
    results: Path,
    suite: str | None = None,
    sources: Sequence[str] = DEFAULT_SOURCES,
    data_dir: Path | None = None,
) -> SiteSummary:
    """Write the site of some records and return what it has.

    A site that this function wrote into the folder before is replaced.

    Args:
        folder: of the site; it is created.
        records: each suite and protocol gets a leaderboard of its own.
        results: the folder of the records, which also holds the predictions on the test clips.
        suite: show only this suite's tasks, and all of them.
        sources: published tables whose systems are shown beside those on MARBLE's tasks.
        data_dir: folder of datasets, from which the sound of each task's hardest clips is copied; None for no sound.

    Raises:
        UsageError: there is no such suite or table.
        StoreError: the folder holds other files, or cannot be written.
    """
    leaderboards = build_leaderboards(records, suite)
    if any(leaderboard.suite == MARBLE_14.name for leaderboard in leaderboards):
        leaderboards = add_published(leaderboards, sources)
    _clear(folder)
    shown = [result.record for board in leaderboards for system in board.systems for result in system.results.values()]
    names = name_systems(shown)
    slugs = slug_names(names.values())
    board_ids = slug_names(f"{each.suite}-{each.protocol}" for each in leaderboards)
    boards: list[dict[str, Any]] = []
    details: dict[str, list[dict[str, Any]]] = {name: [] for name in slugs}
    pairs = 0
    with progress("comparing systems", sum(len(leaderboard.tasks) for leaderboard in leaderboards)) as advance:
        for leaderboard in leaderboards:
            board_id = board_ids[f"{leaderboard.suite}-{leaderboard.protocol}"]
            board = board_data(leaderboard, names, list(slugs), board_id)
            boards.append(board)
            comparisons = PairComparisons()
            for task in board["tasks"]:
                by_name = {
                    names[record.encoder.name, record.encoder.weights_sha256]: record
                    for system in leaderboard.systems
                    if task["name"] in system.results
                    for record in [system.results[task["name"]].record]
                }
                for name, record in by_name.items():
                    path = folder / "records" / slugs[name] / board_id / f"{task['slug']}.json"
                    _write_json(path, record.model_dump(mode="json", by_alias=True))
                classes = compare_and_count(by_name, Path(results), comparisons)
                if data_dir is not None and classes:
                    dataset = next(iter(by_name.values())).data.name
                    add_sound(classes["hardest"], dataset, data_dir, folder, f"{board_id}/{task['slug']}")
                _write_data(folder, f"tasks/{board_id}/{task['slug']}", classes)
                advance()
            for first, others in comparisons.by_first().items():
                pairs += len(others)
                _write_data(folder, f"compare/{board_id}/{slugs[first]}", others)
            for system in leaderboard.systems:
                record = next(iter(system.results.values())).record
                name = names[record.encoder.name, record.encoder.weights_sha256]
                details[name].append(system_details(system, board_id))
    for name, parts in details.items():
        _write_data(folder, f"systems/{slugs[name]}", parts)
    systems = {names[record.encoder.name, record.encoder.weights_sha256]: record for record in shown}
    index = {
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": __version__,
        "systems": [system_data(name, slugs[name], systems[name]) for name in slugs],
        "boards": boards,
    }
    _write_data(folder, INDEX, index)
    for asset in sorted(ASSETS.iterdir()):
        if asset.suffix in {".html", ".js", ".css"}:
            write_text(folder / asset.name, asset.read_text(encoding="utf-8"))
    tasks = {task["name"] for board in boards for task in board["tasks"]}
    return SiteSummary(folder / "index.html", len(slugs), len(tasks), len(shown), pairs)


def _clear(folder: Path) -> None:
    """Remove the data of a former site.

    Raises:
        StoreError: the folder holds other files, or is a file.
    """
    try:
        if not folder.exists() or not any(folder.iterdir()):
            return
        if not (folder / "data" / f"{INDEX}.json").is_file():
            raise StoreError(f"--site {folder}: it holds other files; name a folder that is new or empty")
        for name in OWN_FOLDERS:
            shutil.rmtree(folder / name, ignore_errors=True)
    except OSError as problem:
        raise StoreError(f"--site {folder}: {problem.strerror or problem}; name a folder") from None


def _write_data(folder: Path, name: str, value: Any) -> None:
    """Write a value as `data/NAME.json` and as `data/NAME.js`, which a page opened from a folder can load."""
    text = _write_json(folder / "data" / f"{name}.json", _visible(value))
    write_text(folder / "data" / f"{name}.js", f"carraraData({json.dumps(name)}, {text.rstrip()});\n")


def _visible(value: Any) -> Any:
    """Return plain values with their text on one line and control codes spelled out, as pages show it."""
    if isinstance(value, Mapping):
        return {one_line(str(key)): _visible(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_visible(each) for each in value]
    return one_line(value) if isinstance(value, str) else value


def _write_json(path: Path, value: Any) -> str:
    text = printable(json.dumps(value, ensure_ascii=False, separators=(",", ":"))) + "\n"
    write_text(path, text)
    return text
