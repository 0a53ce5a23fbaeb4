"""A reproduction as Markdown and JSON: its table beside the published one, the plot, the cost and the verdicts."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from carrara.bench.leaderboard.published import published_scores
from carrara.bench.leaderboard.ranking import Interval
from carrara.core.io import atomic_write, write_text
from carrara.reproduce._base import AblationRow, Reproduction
from carrara.reproduce._curves import Course, Curves, describe_flattening, draw_curves
from carrara.reproduce._run import FIRST_SEED, ReproductionPlan
from carrara.reproduce._verdict import RowResult, Verdict

COLOUR = "#0072b2"
NOTHING = "–"
MIN_SEEDS = 3


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
        elif row.label in results:
            result = results[row.label]
            values |= {name: value for name, value in asdict(result).items() if name != "draw_G"}
            values["seeds"] = len(result.by_seed)
        rows.append(values)
    return {
        "reproduction": reproduction.source,
        "scale": plan.scale,
        "steps": plan.steps,
        "protocol": plan.bench_config(reproduction, FIRST_SEED).name,
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
    curves: Curves | None = None,
) -> str:
    """Return the page of a reproduction whose rows have scores."""
    seeds = max(len(result.by_seed) for result in results.values())
    tasks = list(next(iter(results.values())).tasks)
    is_purity = reproduction.measures == "purity"
    own_task = ["own task"] if any(result.validated is not None for result in results.values()) else []
    columns = [] if is_purity else [task.removeprefix("pebble/") for task in tasks]
    mean = "purity of genres" if is_purity else "mean of Pebble's tasks"
    table = [["row", mean, *columns, *own_task, "parameters", "training", "published"]]
    for row in plan.rows(reproduction):
        value = published_value(reproduction, row)
        published = NOTHING if value is None else f"{value:.1f}"
        if row.label not in results:
            table.append([row.label, *[NOTHING] * (len(table[0]) - 2), published])
            continue
        result = results[row.label]
        cost = f"{result.training_seconds:.0f} s" if result.training_seconds else NOTHING
        scores = [f"{result.tasks[task]:.1f}" for task in tasks] if columns else []
        validated = [NOTHING if result.validated is None else f"{result.validated:.1f}"] if own_task else []
        cells = [row.label, _format_interval(result.average), *scores, *validated, f"{result.parameters:,}", cost]
        table.append([*cells, published])
    what = "Purity is the fraction of a song's ten nearest neighbours with its genre" if is_purity else ""
    measure = f"{what}, in percent," if is_purity else "Scores are Pebble's, in percent,"
    own = " `own task` is a tagger's AP on the validation songs of the tags it learns." if own_task else ""
    text = f"{_opening(reproduction, plan, seeds)} {measure} with 95 % intervals over seeds and clips.{own}"
    lines = [
        *_heading(reproduction, f"{text} {reproduction.notes}", table),
        *(f"Not run: `{label}`, which needs {need}.\n" for label, need in plan.missing_weights(reproduction).items()),
        f"![{reproduction.title}]({reproduction.source}.png)",
        "",
        *_curve_lines(reproduction, curves or {}),
        "| hypothesis | difference | verdict |",
        "| :-- | --: | :-- |",
        *(
            f"| {each.hypothesis.text} | {_format_interval(each.difference, '+')} | {_format_verdict(each)} |"
            for each in verdicts
        ),
        "",
        _closing(plan, command),
    ]
    return "\n".join(lines)


def training_markdown(
    reproduction: Reproduction,
    plan: ReproductionPlan,
    courses: Mapping[str, Course],
    verdicts: Sequence[Verdict],
    command: str,
    curves: Curves,
) -> str:
    """Return the page of a reproduction that compares how trainings go."""
    table = [["row", "broke", "largest gradient norm", "smallest loss scale", "skipped steps", "as published"]]
    for row in plan.rows(reproduction):
        course = courses[row.label]
        kinds = {"stopped": len(course.stopped), "diverged": course.diverged, "stuck": course.stuck}
        broke = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count) or "no"
        norm = NOTHING if course.highest_norm is None else f"{course.highest_norm:.3g}"
        scale = NOTHING if course.lowest_scale is None else f"{course.lowest_scale:g}"
        table.append([row.label, broke, norm, scale, str(course.skipped), row.outcome or NOTHING])
    text = (
        f"{_opening(reproduction, plan, plan.seeds)} A run has broken where it stopped by itself (smallest loss scale, "
        "collapse), where its last ten losses are on average above twice the lowest ten, or where it is stuck: more "
        "than half of its steps were skipped because they were not finite."
    )
    lines = [
        *_heading(reproduction, f"{text} {reproduction.notes}", table),
        *(f"`{label}`: {reason}\n" for label, course in courses.items() for reason in course.stopped),
        *_curve_lines(reproduction, curves),
        "| hypothesis | verdict |",
        "| :-- | :-- |",
        *(f"| {each.hypothesis.text} | {_format_verdict(each)} |" for each in verdicts),
        "",
        _closing(plan, command),
    ]
    return "\n".join(lines)


def _opening(reproduction: Reproduction, plan: ReproductionPlan, seeds: int) -> str:
    steps = f", {plan.steps:,} steps" if plan.steps else ""
    changes = "".join(f", `{path}={value}`" for path, value in plan.changes.items())
    count = f"{seeds} seed{'s' * (seeds > 1)} a row"
    is_measured = reproduction.measures == "tasks"
    protocol = f", protocol `{plan.bench_config(reproduction, FIRST_SEED).name}`" if is_measured else ""
    return f"{reproduction.table} in miniature: scale `{plan.scale}`{steps}{changes}, {count}{protocol}."


def _heading(reproduction: Reproduction, text: str, table: Sequence[Sequence[str]]) -> list[str]:
    rule = [":--", *["--:"] * (len(table[0]) - 1)]
    rows = ["| " + " | ".join(cells) + " |" for cells in (table[0], rule, *table[1:])]
    return [f"# {reproduction.title}", "", text, "", *rows, ""]


def _curve_lines(reproduction: Reproduction, curves: Curves) -> list[str]:
    if not curves:
        return []
    return [f"![Curves of the trainings]({reproduction.source}-curves.png)", "", describe_flattening(curves), ""]


def _closing(plan: ReproductionPlan, command: str) -> str:
    return f"`{command}`, {datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {plan.device}.\n"


def _format_verdict(verdict: Verdict) -> str:
    """Return the verdict, in bold from three seeds on."""
    if verdict.difference is None and not verdict.seeds:
        return verdict.verdict
    if verdict.seeds >= MIN_SEEDS:
        return f"**{verdict.verdict}**"
    return f"{verdict.verdict} ({verdict.seeds} seed{'s' * (verdict.seeds > 1)})"


def write_page(
    plan: ReproductionPlan,
    reproduction: Reproduction,
    text: str,
    results: dict[str, RowResult],
    curves: Curves | None = None,
) -> Path:
    """Write page and pictures into the output folder and return the page's path; no results, no picture of them."""
    if results:
        _draw_results(plan, reproduction, results)
    if curves:
        draw_curves(plan.output / f"{reproduction.source}-curves.png", curves)
    page = plan.output / f"{reproduction.source}.md"
    write_text(page, text)
    return page


def _draw_results(plan: ReproductionPlan, reproduction: Reproduction, results: dict[str, RowResult]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.8 + 0.45 * len(results)), layout="constrained")
    axes = figure.add_subplot()
    for height, result in enumerate(results.values()):
        axes.plot([result.average.low, result.average.high], [height, height], color=COLOUR, linewidth=2)
        axes.plot(result.average.value, height, marker="o", color=COLOUR)
    axes.set_yticks(range(len(results)), list(results))
    axes.set_ylim(len(results) - 0.5, -0.5)
    count = len(reproduction.tasks)
    measure = "purity of genres" if reproduction.measures == "purity" else f"mean of {count} Pebble tasks"
    axes.set_xlabel(f"{measure} in percent, with its 95 % interval over seeds and clips")
    axes.grid(axis="x", alpha=0.4)
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(plan.output / f"{reproduction.source}.png") as tmp:
        figure.savefig(tmp, dpi=150, format="png")


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
