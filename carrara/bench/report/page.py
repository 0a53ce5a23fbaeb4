"""The report: one HTML file with the leaderboard, plots, costs and provenance, which loads nothing from the network.

The page is `report.html` beside this file, a Jinja template that escapes every value; plots are inline SVG.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from carrara.bench.leaderboard.notes import leaderboard_notes
from carrara.bench.leaderboard.ranking import Leaderboard, add_published, build_leaderboards
from carrara.bench.leaderboard.tables import to_html
from carrara.bench.report import plots
from carrara.bench.report.example import example_plot
from carrara.core.io import write_text
from carrara.core.record import Record

SHOWN_VALUES = 12


def write_report(path: Path | str, records: Iterable[Record], **options: Any) -> Path:
    """Write the report and return its path; the options are those of `render_report`.

    Raises:
        StoreError: it cannot be written.
    """
    write_text(Path(path), render_report(records, **options))
    return Path(path)


def render_report(
    records: Iterable[Record],
    metrics: Sequence[Mapping[str, Any]] = (),
    example: Mapping[str, Any] | None = None,
    title: str = "Carrara report",
    suite: str | None = None,
    sources: Sequence[str] = (),
) -> str:
    """Return the report as HTML.

    Args:
        records: each suite and protocol gets a leaderboard of its own.
        metrics: of a pre-training run, as its metrics log has them: one mapping for each logged step.
        example: a clip to show: `samples` (mono), `sample_rate` (Hz), `labels` by name, and `name`.
        title: of the page.
        suite: show only this suite's tasks, and all of them.
        sources: published tables whose systems are shown beside those on MARBLE's tasks.

    Raises:
        UsageError: there is no such suite or table, or no leaderboard for the published systems.
    """
    import jinja2

    leaderboards = build_leaderboards(records, suite)
    if sources:
        leaderboards = add_published(leaderboards, sources)
    template = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html")
    return template.render(
        title=title,
        sections=[_section(leaderboard) for leaderboard in leaderboards],
        training=_training(metrics) if metrics else None,
        example=_example(example) if example else None,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        machine=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    )


def _section(leaderboard: Leaderboard) -> dict[str, Any]:
    styles = plots.system_styles(leaderboard.systems)
    colours = {name: plots.VARIABLES.get(style["color"], style["color"]) for name, style in styles.items()}
    costs: list[dict[str, Any]] = [
        {
            "name": system.name,
            "parameters": records[0].encoder.parameters,
            "probes": sum(record.protocol.tried for record in records),
            "device": ", ".join(sorted({record.run.device for record in records})),
            "seconds": {
                phase: sum(record.run.seconds.get(phase, 0.0) for record in records)
                for phase in dict.fromkeys(phase for record in records for phase in record.run.seconds)
            },
        }
        for system in leaderboard.systems
        if (records := [result.record for result in system.results.values()])
    ]
    return {
        "title": leaderboard.title,
        "table": to_html(leaderboard, colours),
        "notes": leaderboard_notes(leaderboard),
        "scores": plots.score_plot(leaderboard),
        "layers": plots.layer_plot(leaderboard),
        "robustness": plots.robustness_plot(leaderboard) if plots.measured_corruptions(leaderboard) else "",
        "phases": list(dict.fromkeys(phase for cost in costs for phase in cost["seconds"])),
        "costs": costs,
        "provenance": _provenance(leaderboard),
    }


def _provenance(leaderboard: Leaderboard) -> dict[str, Any]:
    records = [result.record for system in leaderboard.systems for result in system.results.values()]
    dates = sorted(record.run.date for record in records)
    by_task = {record.task.name: record for record in records}
    return {
        "encoders": {system.name: next(iter(system.results.values())).record.encoder for system in leaderboard.systems},
        "tasks": [
            (
                f"{task}@{by_task[task].task.version}",
                by_task[task].task.fingerprint[:16],
                " / ".join(f"{count:,}" for count in by_task[task].data.n.values()),
            )
            for task in leaderboard.tasks
            if task in by_task
        ],
        "versions": sorted({f"{name} {number}" for record in records for name, number in record.run.versions.items()}),
        "dates": dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}",
        "commands": sorted({record.run.command for record in records}),
        "commits": sorted({record.run.git for record in records if record.run.git}),
        "seeds": sorted({seed for record in records for seed in (record.run.seed, *record.run.seeds)}),
    }


def _training(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    last = metrics[-1]
    rates = [line["audio_hours_per_hour"] for line in metrics if "audio_hours_per_hour" in line]
    facts = {"steps": f"{last['step']:,}"} if "step" in last else {}
    if "seconds" in last:
        facts["time"] = f"{last['seconds'] / 60:.1f} minutes"
    if rates:
        facts["audio"] = f"{sum(rates) / len(rates):,.0f} s a second"
    facts |= {
        key.replace("_", " "): f"{value:.4g}"
        for key, value in last.items()
        if key.partition("/")[0] in {"loss", "accuracy"} and isinstance(value, int | float)
    }
    return {"plot": plots.training_plot(metrics), "facts": facts}


def _example(example: Mapping[str, Any]) -> dict[str, Any]:
    labels = dict(example.get("labels", {}))
    return {
        "name": example.get("name", ""),
        "plot": example_plot(example["samples"], int(example["sample_rate"]), labels),
        "labels": {name: format_label(value) for name, value in labels.items()},
    }


def format_label(value: Any) -> str:
    """Return a label's value as text: lists shortened, numbers to three decimals."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {format_label(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        words = [format_label(part) for part in value[:SHOWN_VALUES]]
        more = f" … ({len(value)} in all)" if len(value) > SHOWN_VALUES else ""
        return ", ".join(words) + more
    return f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
