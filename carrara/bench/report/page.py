"""The report: one HTML file with the board, its plots, what it cost and where it comes from; nothing to fetch.

The page is `report.html` beside this file, a Jinja template that escapes every value; plots are SVG in it.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from carrara.bench.leaderboard.published import with_published
from carrara.bench.leaderboard.ranking import Board, boards
from carrara.bench.leaderboard.text import MISSING, best, level_names, marks, printed, rank, row_name, shows_common
from carrara.bench.report import plots
from carrara.bench.report.example import example_plot
from carrara.bench.report.robustness import deformations, deformed_plot
from carrara.core.io import write_text
from carrara.core.record import Record

SHOWN_VALUES = 12


def write_report(
    path: Path | str,
    records: Iterable[Record],
    journal: Path | str | None = None,
    example: Mapping[str, Any] | None = None,
    title: str = "Carrara report",
) -> Path:
    """Write the report and return its path; see `report`.

    Raises:
        StoreError: it cannot be written.
    """
    write_text(Path(path), report(records, journal, example, title))
    return Path(path)


def report(
    records: Iterable[Record],
    journal: Path | str | None = None,
    example: Mapping[str, Any] | None = None,
    title: str = "Carrara report",
    suite: str | None = None,
    sources: Sequence[str] = (),
) -> str:
    """Return the report as HTML.

    Args:
        records: what was measured; each family of rows gets a board of its own.
        journal: JSON lines of a pre-training run, one object a logged step; a file that is not there counts as none.
        example: a clip to show: `samples` (mono), `sample_rate` (Hz), `labels` by name, and `name`.
        title: of the page.
        suite: only this suite's rows, and all of them.
        sources: published tables whose systems stand beside MARBLE's rows.

    Raises:
        UsageError: there is no such suite or table, or no board for the published systems.
    """
    import jinja2

    found = with_published(boards(records, suite), sources) if sources else boards(records, suite)
    lines = _journal(Path(journal)) if journal else []
    page = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html")
    return page.render(
        title=title,
        boards=[_section(one) for one in found],
        training=_training(lines) if lines else None,
        example=_example(example) if example else None,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        machine=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    )


def _section(board: Board) -> dict[str, Any]:
    kept = [cell.record for system in board.systems for cell in system.cells.values()]
    looks = plots.looks(board.systems)
    return {
        "board": board,
        "row_name": row_name,
        "levels": list(zip(board.levels(), level_names(board))),
        "copied": _copied(board),
        "colours": {name: plots.VARIABLES.get(look["color"], look["color"]) for name, look in looks.items()},
        "rank": rank,
        "marks": marks,
        "best": best(board),
        "shows_common": shows_common(board),
        "scores": plots.score_plot(board),
        "layers": plots.layer_plot(board),
        "deformed": deformed_plot(board) if deformations(board) else "",
        "costs": _costs(board),
        "provenance": _provenance(board, kept),
    }


def _copied(board: Board) -> list[dict[str, str]]:
    """Return each published system's text by line of the page."""
    common = ["common"] if shows_common(board) else []
    lines = ["rank", "average", *common, *board.tasks, *level_names(board)]
    return [dict(zip(lines, [MISSING, *printed(board, system)])) for system in board.published]


def _costs(board: Board) -> dict[str, Any]:
    """Return for each system its size, the probes it took and its seconds by phase, over all rows."""
    lines: list[dict[str, Any]] = []
    for system in board.systems:
        records = [cell.record for cell in system.cells.values()]
        seconds: dict[str, float] = {}
        for record in records:
            for phase, value in record.run.seconds.items():
                seconds[phase] = seconds.get(phase, 0.0) + value
        lines.append(
            {
                "name": system.name,
                "parameters": records[0].encoder.parameters,
                "probes": sum(record.protocol.tried for record in records),
                "device": ", ".join(sorted({record.run.device for record in records})),
                "seconds": seconds,
            }
        )
    return {"phases": list(dict.fromkeys(phase for line in lines for phase in line["seconds"])), "lines": lines}


def _provenance(board: Board, records: Sequence[Record]) -> dict[str, Any]:
    versions = sorted({f"{name} {number}" for record in records for name, number in record.run.versions.items()})
    dates = sorted(record.run.date for record in records)
    newest = {record.task.name: record for record in records}
    return {
        "weights": {system.name: next(iter(system.cells.values())).record.encoder for system in board.systems},
        "tasks": [
            (f"{name}@{newest[name].task.version}", newest[name].task.fingerprint[:16], _sides(newest[name]))
            for name in board.tasks
            if name in newest
        ],
        "versions": versions,
        "dates": dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}",
        "commands": sorted({record.run.command for record in records}),
        "source": sorted({record.run.git for record in records if record.run.git}),
        "seeds": sorted({record.run.seed for record in records}),
    }


def _sides(record: Record) -> str:
    return " / ".join(f"{count:,}" for count in record.data.n.values())


def _training(lines: list[dict[str, Any]]) -> dict[str, Any]:
    last = lines[-1]
    rate = [line["audio_seconds_per_second"] for line in lines if "audio_seconds_per_second" in line]
    facts = {"steps": f"{last['step']:,}"} if "step" in last else {}
    if "seconds" in last:
        facts["time"] = f"{last['seconds'] / 60:.1f} minutes"
    if rate:
        facts["audio heard"] = f"{sum(rate) / len(rate):,.0f} s a second"
    facts |= {
        key.replace("_", " "): f"{value:.4g}"
        for key, value in last.items()
        if key.partition("/")[0] in {"loss", "accuracy"} and isinstance(value, int | float)
    }
    return {"plot": plots.training_plot(lines), "facts": facts}


def _example(example: Mapping[str, Any]) -> dict[str, Any]:
    labels = dict(example.get("labels", {}))
    plot = example_plot(example["samples"], int(example["sample_rate"]), labels)
    return {
        "name": example.get("name", ""),
        "plot": plot,
        "labels": {name: shown(value) for name, value in labels.items()},
    }


def shown(value: Any) -> str:
    """Return a label's value as a reader wants it: lists short, numbers to three decimals."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {shown(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        words = [shown(part) for part in value[:SHOWN_VALUES]]
        more = f" … ({len(value)} in all)" if len(value) > SHOWN_VALUES else ""
        return ", ".join(words) + more
    return f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _journal(path: Path) -> list[dict[str, Any]]:
    """Return a journal's objects up to the first line that was cut short."""
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            break
        if isinstance(line, dict):
            lines.append(line)
    return lines
