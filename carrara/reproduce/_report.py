"""Run a reproduction of any kind, decide its hypotheses, and write its page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from carrara.reproduce._base import Reproduction
from carrara.reproduce._curves import course_values, read_curves, train_rows
from carrara.reproduce._page import page_markdown, page_values, training_markdown, write_page
from carrara.reproduce._purity import measure_purity
from carrara.reproduce._run import ReproductionPlan, run_reproduction
from carrara.reproduce._verdict import decide_hypotheses, decide_stability, summarise_rows


def run_and_report(
    reproduction: Reproduction, plan: ReproductionPlan, command: str
) -> tuple[dict[str, Any], str, Path]:
    """Return a reproduction's values, its page as Markdown, and the file that was written; `command` is shown there.

    Raises:
        CarraraError: nothing can be run, or a training or a measurement failed; the same plan continues with it.
    """
    if reproduction.measures == "training":
        courses = train_rows(reproduction, plan)
        broken = {label: course.is_broken for label, course in courses.items()}
        verdicts = decide_stability(reproduction, broken, plan.seeds)
        curves = read_curves(reproduction, plan)
        text = training_markdown(reproduction, plan, courses, verdicts, command, curves)
        values = page_values(reproduction, plan, {}, verdicts) | {"rows": course_values(courses)}
        return values, text, write_page(plan, reproduction, text, {}, curves)
    if reproduction.measures == "purity":
        results = measure_purity(reproduction, plan)
    else:
        results = summarise_rows(reproduction, run_reproduction(reproduction, plan), plan.output / "results")
    verdicts = decide_hypotheses(reproduction, results, plan.missing_weights(reproduction))
    curves = read_curves(reproduction, plan)
    text = page_markdown(reproduction, plan, results, verdicts, command, curves)
    values = page_values(reproduction, plan, results, verdicts)
    return values, text, write_page(plan, reproduction, text, results, curves)
