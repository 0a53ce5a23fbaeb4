"""The report: one HTML file with the leaderboard and what it means, plots, clips, costs and provenance.

It loads nothing from the network.

The page is `report.html` beside this file, a Jinja template that escapes every value; plots are inline SVG,
and example clips are embedded as MP3.
"""

from __future__ import annotations

import base64
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from carrara.bench.leaderboard.notes import leaderboard_notes
from carrara.bench.leaderboard.ranking import Leaderboard, add_published, build_leaderboards
from carrara.bench.leaderboard.tables import to_html
from carrara.bench.report import plots
from carrara.bench.report.classes import class_results, label_and_prediction
from carrara.bench.report.example import example_plot
from carrara.bench.report.feature_map import feature_map
from carrara.bench.report.meaning import explain_systems
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
    examples: Sequence[Mapping[str, Any]] = (),
    title: str = "Carrara report",
    suite: str | None = None,
    sources: Sequence[str] = (),
    results: Path | None = None,
    maps: Sequence[Mapping[str, Any]] = (),
    seeds: Mapping[str, str] | None = None,
) -> str:
    """Return the report as HTML.

    Args:
        records: each suite and protocol gets a leaderboard of its own.
        metrics: of a pre-training run, as its metrics log has them: one mapping for each logged step.
        examples: clips to show and play: `samples` (mono), `sample_rate` (Hz), `labels` by name, and `name`, the id.
        title: of the page.
        suite: show only this suite's tasks, and all of them.
        sources: published tables whose systems are shown beside those on MARBLE's tasks.
        results: folder of the records; the predictions in it are shown by class and for the example clips.
        maps: features to show as maps: `features` `[clips, dim]`, a label of each clip in `labels`, and `title`.
        seeds: what else was drawn from which seed, beside the probes, such as the pre-training.

    Raises:
        UsageError: there is no such suite or table, or no leaderboard for the published systems.
        StoreError: stored predictions are damaged.
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
        sections=[_section(leaderboard, results) for leaderboard in leaderboards],
        maps=[feature_map(each["features"], each["labels"], each["title"]) for each in maps],
        training=_training(metrics) if metrics else None,
        examples=[_example(example, number, leaderboards, results) for number, example in enumerate(examples)],
        seeds=dict(seeds or {}),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        machine=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    )


def _section(leaderboard: Leaderboard, results: Path | None) -> dict[str, Any]:
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
        "meaning": explain_systems(leaderboard),
        "classes": class_results(leaderboard, results) if results else [],
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


def _example(
    example: Mapping[str, Any], number: int, leaderboards: Sequence[Leaderboard], results: Path | None
) -> dict[str, Any]:
    labels, name = dict(example.get("labels", {})), example.get("name", "")
    samples, rate = np.asarray(example["samples"], dtype=np.float32).reshape(-1), int(example["sample_rate"])
    answers = []
    if results is not None:
        for leaderboard in leaderboards:
            answers += _answers(leaderboard, results, name)
    return {
        "name": name,
        "plot": example_plot(samples, rate, labels, f"example-{number}"),
        "audio": mp3_address(samples, rate),
        "labels": {label: format_label(value) for label, value in labels.items()},
        "systems": list(dict.fromkeys(system for _, _, texts in answers for system in texts)),
        "answers": answers,
    }


def _answers(leaderboard: Leaderboard, results: Path, clip_id: str) -> list[tuple[str, str, dict[str, str]]]:
    """Return for each task with stored predictions of a clip its label and what each system predicted."""
    answers = []
    for task in leaderboard.tasks:
        pairs = {
            system.name: label_and_prediction(system.results[task].record, results, clip_id)
            for system in leaderboard.systems
            if task in system.results
        }
        known = {system: pair for system, pair in pairs.items() if pair}
        if known:
            truth = next(iter(known.values()))[0]
            answers.append((task, truth, {system: prediction for system, (_, prediction) in known.items()}))
    return answers


def mp3_address(samples: np.ndarray, sample_rate: int) -> str:
    """Return a clip as a `data:` address of an MP3, which every browser plays.

    Args:
        samples: float, mono; values beyond 1 are clipped.
        sample_rate: in Hz, one of MPEG's: 8, 11.025, 12, 16, 22.05, 24, 32, 44.1 or 48 kHz.
    """
    import soundfile

    file = BytesIO()
    soundfile.write(file, np.nan_to_num(samples).clip(-1, 1), sample_rate, format="MP3")
    return f"data:audio/mpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def format_label(value: Any) -> str:
    """Return a label's value as text: lists shortened, numbers to three decimals."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {format_label(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        words = [format_label(part) for part in value[:SHOWN_VALUES]]
        more = f" … ({len(value)} in all)" if len(value) > SHOWN_VALUES else ""
        return ", ".join(words) + more
    return f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
