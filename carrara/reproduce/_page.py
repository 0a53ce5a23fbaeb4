"""A study as a page: the table beside the published one, the plot, the cost, and the verdicts; as Markdown and JSON."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from carrara.bench.leaderboard.published import table
from carrara.bench.leaderboard.ranking import Span
from carrara.core.io import atomic_write, write_text
from carrara.reproduce._base import Line, Study
from carrara.reproduce._measure import Plan
from carrara.reproduce._verdict import Found, Verdict

LINE = "#0072b2"
NOTHING = "–"


def values(study: Study, plan: Plan, lines: dict[str, Found], judged: Sequence[Verdict]) -> dict[str, Any]:
    """Return all that was found as plain values."""
    lacking = plan.lacking(study)
    return {
        "study": study.source,
        "scale": plan.scale,
        "steps": plan.steps,
        "rows": list(study.rows),
        "lines": [
            {"label": line.label, "published": _published(study, line)}
            | ({"needs": lacking[line.label]} if line.label in lacking else _values(lines[line.label]))
            for line in plan.lines(study)
        ],
        "claims": [{"claim": one.claim.text, **_difference(one), "verdict": one.word} for one in judged],
    }


def _values(found: Found) -> dict[str, Any]:
    return {
        "average": found.span.value,
        "low": found.span.low,
        "high": found.span.high,
        "seeds": found.seeds,
        "parameters": found.parameters,
        "training_seconds": round(found.seconds, 1),
        "rows": found.rows,
    }


def _difference(one: Verdict) -> dict[str, float | None]:
    span = one.difference
    if span is None:
        return {"difference": None, "low": None, "high": None}
    return {"difference": span.value, "low": span.low, "high": span.high}


def markdown(study: Study, plan: Plan, lines: dict[str, Found], judged: Sequence[Verdict], command: str) -> str:
    """Return the page."""
    seeds = max(line.seeds for line in lines.values())
    short = [row.removeprefix("pebble/") for row in study.rows]
    head = ["line", "mean of Pebble's rows", *short, "parameters", "training", "published"]
    rows = [_row(study, line, lines.get(line.label)) for line in plan.lines(study)]
    steps = f", {plan.steps:,} steps" if plan.steps else ""
    return "\n".join(
        [
            f"# {study.title}",
            "",
            f"{study.table} in miniature: scale `{plan.scale}`{steps}, {seeds} seed{'s' * (seeds > 1)} a line. "
            f"Scores are Pebble's, in percent, with 95 % intervals over seeds and clips. {study.told}",
            "",
            *("| " + " | ".join(row) + " |" for row in [head, [":--", *["--:"] * (len(head) - 1)], *rows]),
            "",
            *(f"Not run: `{label}`, which needs {need}.\n" for label, need in plan.lacking(study).items()),
            f"![{study.title}]({study.source}.png)",
            "",
            "| claim | difference | verdict |",
            "| :-- | --: | :-- |",
            *(f"| {one.claim.text} | {_spanned(one.difference, '+')} | **{one.word}** |" for one in judged),
            "",
            f"`{command}`, {datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {plan.device}.",
            "",
        ]
    )


def _row(study: Study, line: Line, found: Found | None) -> list[str]:
    printed = _published(study, line)
    published = NOTHING if printed is None else f"{printed:.1f}"
    if found is None:
        return [line.label, *[NOTHING] * (len(study.rows) + 3), published]
    return [
        line.label,
        _spanned(found.span),
        *(f"{found.rows[row]:.1f}" for row in study.rows),
        f"{found.parameters:,}",
        f"{found.seconds:.0f} s" if found.seconds else NOTHING,
        published,
    ]


def _spanned(span: Span | None, sign: str = "") -> str:
    return NOTHING if span is None else f"{span.value:{sign}.1f} [{span.low:{sign}.1f}, {span.high:{sign}.1f}]"


def picture(path: Path, study: Study, lines: dict[str, Found]) -> None:
    """Draw each line's mean with its interval as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.8 + 0.45 * len(lines)), layout="constrained")
    axes = figure.add_subplot()
    for height, line in enumerate(lines.values()):
        span = line.span
        axes.plot([span.low, span.high], [height, height], color=LINE, linewidth=2)
        axes.plot(span.value, height, marker="o", color=LINE)
    axes.set_yticks(range(len(lines)), list(lines))
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_xlabel(f"mean of {len(study.rows)} Pebble rows in percent, with its 95 % interval over seeds and clips")
    axes.grid(axis="x", alpha=0.4)
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as draft:
        figure.savefig(draft, dpi=150, format="png")


def write(plan: Plan, study: Study, text: str, lines: dict[str, Found]) -> Path:
    """Write page and picture into the study's folder and return the page's path."""
    page = plan.output / f"{study.source}.md"
    picture(plan.output / f"{study.source}.png", study, lines)
    write_text(page, text)
    return page


def _published(study: Study, line: Line) -> float | None:
    asked = (line.published, line.source or study.source, study.column, study.metric)
    return next((one.value for one in table() if (one.system, one.source, one.dataset, one.metric) == asked), None)
