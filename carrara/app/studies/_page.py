"""A study as a page: the table beside the published one, the plot, the cost, and the verdicts; as Markdown and JSON."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from carrara.app.studies._base import Study
from carrara.app.studies._measure import Plan
from carrara.app.studies._verdict import Found, Verdict
from carrara.bench.board.published import averages, table
from carrara.bench.board.ranking import Span
from carrara.core.files import whole, write_text

LINE = "#0072b2"


def values(study: Study, plan: Plan, lines: dict[str, Found], judged: Sequence[Verdict]) -> dict[str, Any]:
    """Return all that was found as plain values."""
    return {
        "study": study.source,
        "scale": plan.scale,
        "steps": plan.steps,
        "rows": list(study.rows),
        "lines": [
            {
                "label": line.label,
                "average": line.span.value,
                "low": line.span.low,
                "high": line.span.high,
                "published": _published(study, line.label),
                "seeds": line.seeds,
                "training_seconds": round(line.seconds, 1),
                "rows": line.rows,
            }
            for line in lines.values()
        ],
        "claims": [
            {
                "claim": one.claim.text,
                "difference": one.difference.value,
                "low": one.difference.low,
                "high": one.difference.high,
                "verdict": one.word,
            }
            for one in judged
        ],
    }


def markdown(study: Study, plan: Plan, lines: dict[str, Found], judged: Sequence[Verdict], command: str) -> str:
    """Return the page."""
    seeds = max(line.seeds for line in lines.values())
    short = [row.removeprefix("pebble/") for row in study.rows]
    head = ["line", "mean of Pebble's rows", *short, "training", "published"]
    body = [head, [":--", *["--:"] * (len(head) - 1)], *(_row(study, line) for line in lines.values())]
    steps = f", {plan.steps:,} steps" if plan.steps else ""
    return "\n".join(
        [
            f"# {study.title}",
            "",
            f"The thesis's table {study.source.removeprefix('thesis-T')} in miniature: scale `{plan.scale}`{steps}, "
            f"{seeds} seeds a line. Scores are Pebble's, in percent, with 95 % intervals over seeds and clips; the "
            "published column is the mean of the thesis's own tasks, so only its order compares.",
            "",
            *("| " + " | ".join(row) + " |" for row in body),
            "",
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


def _row(study: Study, line: Found) -> list[str]:
    printed = _published(study, line.label)
    return [
        line.label,
        _spanned(line.span),
        *(f"{line.rows[row]:.1f}" for row in study.rows),
        f"{line.seconds:.0f} s" if line.seconds else "–",
        "–" if printed is None else f"{printed:.1f}",
    ]


def _spanned(span: Span, sign: str = "") -> str:
    return f"{span.value:{sign}.1f} [{span.low:{sign}.1f}, {span.high:{sign}.1f}]"


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
    with whole(path) as draft:
        figure.savefig(draft, dpi=150, format="png")


def write(plan: Plan, study: Study, text: str, lines: dict[str, Found]) -> Path:
    """Write page and picture into the study's folder and return the page's path."""
    page = plan.output / f"{study.source}.md"
    picture(plan.output / f"{study.source}.png", study, lines)
    write_text(page, text)
    return page


def _published(study: Study, label: str) -> float | None:
    name = next(line.published for line in study.lines if line.label == label)
    known = {(one.system, one.source, one.over): one.printed for one in averages(table())}
    return known.get((name, study.source, study.average))
