"""A reproduction as Markdown and JSON: its table beside the published one, the plot, the cost and the verdicts."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from carrara.bench.leaderboard.published import published_scores
from carrara.bench.leaderboard.ranking import Interval
from carrara.core.io import atomic_write, write_text
from carrara.reproduce._base import AblationRow, Reproduction
from carrara.reproduce._run import ReproductionPlan
from carrara.reproduce._verdict import RowResult, Verdict

COLOUR = "#0072b2"
NOTHING = "–"


def page_values(
    reproduction: Reproduction, plan: ReproductionPlan, results: dict[str, RowResult], verdicts: Sequence[Verdict]
) -> dict[str, Any]:
    """Return the results and verdicts as plain values."""
    missing = plan.missing_weights(reproduction)
    rows: list[dict[str, Any]] = []
    for row in plan.rows(reproduction):
        values: dict[str, Any] = {"label": row.label, "published": published_value(reproduction, row)}
        if row.label in missing:
            values["needs"] = missing[row.label]
        else:
            result = results[row.label]
            values |= {name: value for name, value in asdict(result).items() if name != "draw_G"}
            values["seeds"] = len(result.by_seed)
        rows.append(values)
    return {
        "reproduction": reproduction.source,
        "scale": plan.scale,
        "steps": plan.steps,
        "tasks": list(reproduction.tasks),
        "rows": rows,
        "hypotheses": [asdict(verdict) for verdict in verdicts],
    }


def page_markdown(
    reproduction: Reproduction,
    plan: ReproductionPlan,
    results: dict[str, RowResult],
    verdicts: Sequence[Verdict],
    command: str,
) -> str:
    """Return the page."""
    seeds = max(len(result.by_seed) for result in results.values())
    short_names = [task.removeprefix("pebble/") for task in reproduction.tasks]
    header = ["row", "mean of Pebble's tasks", *short_names, "parameters", "training", "published"]
    table = [header, [":--", *["--:"] * (len(header) - 1)]]
    for row in plan.rows(reproduction):
        value = published_value(reproduction, row)
        published = NOTHING if value is None else f"{value:.1f}"
        if row.label not in results:
            table.append([row.label, *[NOTHING] * (len(reproduction.tasks) + 3), published])
            continue
        result = results[row.label]
        cost = f"{result.training_seconds:.0f} s" if result.training_seconds else NOTHING
        scores = [f"{result.tasks[task]:.1f}" for task in reproduction.tasks]
        table.append([row.label, _format_interval(result.average), *scores, f"{result.parameters:,}", cost, published])
    steps = f", {plan.steps:,} steps" if plan.steps else ""
    lines = [
        f"# {reproduction.title}",
        "",
        f"{reproduction.table} in miniature: scale `{plan.scale}`{steps}, {seeds} seed{'s' * (seeds > 1)} a row. "
        f"Scores are Pebble's, in percent, with 95 % intervals over seeds and clips. {reproduction.notes}",
        "",
        *("| " + " | ".join(cells) + " |" for cells in table),
        "",
        *(f"Not run: `{label}`, which needs {need}.\n" for label, need in plan.missing_weights(reproduction).items()),
        f"![{reproduction.title}]({reproduction.source}.png)",
        "",
        "| hypothesis | difference | verdict |",
        "| :-- | --: | :-- |",
        *(
            f"| {each.hypothesis.text} | {_format_interval(each.difference, '+')} | **{each.verdict}** |"
            for each in verdicts
        ),
        "",
        f"`{command}`, {datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {plan.device}.",
        "",
    ]
    return "\n".join(lines)


def write_page(plan: ReproductionPlan, reproduction: Reproduction, text: str, results: dict[str, RowResult]) -> Path:
    """Write page and picture into the output folder and return the page's path."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.8 + 0.45 * len(results)), layout="constrained")
    axes = figure.add_subplot()
    for height, result in enumerate(results.values()):
        axes.plot([result.average.low, result.average.high], [height, height], color=COLOUR, linewidth=2)
        axes.plot(result.average.value, height, marker="o", color=COLOUR)
    axes.set_yticks(range(len(results)), list(results))
    axes.set_ylim(len(results) - 0.5, -0.5)
    count = len(reproduction.tasks)
    axes.set_xlabel(f"mean of {count} Pebble tasks in percent, with its 95 % interval over seeds and clips")
    axes.grid(axis="x", alpha=0.4)
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(plan.output / f"{reproduction.source}.png") as tmp:
        figure.savefig(tmp, dpi=150, format="png")
    page = plan.output / f"{reproduction.source}.md"
    write_text(page, text)
    return page


def published_value(reproduction: Reproduction, row: AblationRow) -> float | None:
    """Return what the published table prints for a row; None where it prints nothing."""
    key = (row.published, row.source or reproduction.source, reproduction.column, reproduction.metric)
    scores = published_scores()
    return next(
        (score.value for score in scores if (score.system, score.source, score.dataset, score.metric) == key), None
    )


def _format_interval(interval: Interval | None, sign: str = "") -> str:
    if interval is None:
        return NOTHING
    return f"{interval.value:{sign}.1f} [{interval.low:{sign}.1f}, {interval.high:{sign}.1f}]"
