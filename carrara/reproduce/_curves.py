"""Curves of a reproduction's trainings: their picture, whether the loss has flattened, and whether a run broke.

The loss has flattened where its mean over the last fifth of the steps is at most 1 % below that over the fifth before,
on the mean over the row's seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from carrara.core.errors import DataError
from carrara.core.io import atomic_write
from carrara.pretrain.metrics_log import LOG_FILE, SKIPPED, read_events, read_metrics
from carrara.reproduce._base import Reproduction
from carrara.reproduce._run import FIRST_SEED, ReproductionPlan, runnable_rows, train_row, training_log

Curves = Mapping[str, Sequence[list[dict[str, Any]]]]
PANELS = {
    "loss": "loss, over that of the first line",
    "gradient_norm": "norm of the gradient before clipping",
    "loss_scale": "loss scale",
}
FLAT = 0.01
# A loss of this many times the lowest, both over ten lines of the log, is a run that diverged.
DIVERGED, LINES = 2.0, 10


@dataclass(frozen=True)
class Course:
    """How one row's trainings went.

    Attributes:
        label: of the row.
        stopped: step and reason where a run stopped by itself, one for each such run.
        diverged: how many runs ended far above their lowest loss.
        stuck: how many runs skipped more than half of their steps because they were not finite.
        skipped: steps that were not taken because they were not finite.
        highest_norm, lowest_scale: of all runs; None where the log has no such number.
    """

    label: str
    stopped: tuple[str, ...]
    diverged: int
    stuck: int
    skipped: int
    highest_norm: float | None
    lowest_scale: float | None

    @property
    def is_broken(self) -> bool:
        """Whether a run stopped by itself, diverged, or skipped most of its steps."""
        return bool(self.stopped or self.diverged or self.stuck)


def train_rows(reproduction: Reproduction, plan: ReproductionPlan) -> dict[str, Course]:
    """Train every row with every seed, without measuring anything after it, and return how it went, by label.

    A run that stops by itself, at the smallest loss scale or in collapse, is a result and no failure.

    Raises:
        CarraraError: a training could not start.
    """
    courses = {}
    for row in runnable_rows(reproduction, plan):
        stopped: list[str] = []
        logs: list[list[dict[str, Any]]] = []
        skipped: list[int] = []
        for seed in range(FIRST_SEED, FIRST_SEED + plan.seeds):
            log = plan.model_folder(row.label, seed) / LOG_FILE
            try:
                train_row(reproduction, row, plan, seed)
            except DataError as problem:
                if not read_metrics(log):
                    raise
                stopped.append(f"step {read_metrics(log)[-1]['step']}: {problem}")
            logs.append(read_metrics(log))
            skipped.append(sum(event["event"] == SKIPPED for event in read_events(log)))
        norms = [line["gradient_norm"] for lines in logs for line in lines if "gradient_norm" in line]
        scales = [line["loss_scale"] for lines in logs for line in lines if "loss_scale" in line]
        finite = [norm for norm in norms if math.isfinite(norm)]
        courses[row.label] = Course(
            row.label,
            tuple(stopped),
            sum(has_diverged([line["loss"] for line in lines if "loss" in line]) for lines in logs),
            sum(bool(lines) and count > lines[-1]["step"] / 2 for count, lines in zip(skipped, logs)),
            sum(skipped),
            max(finite, default=None),
            min(scales, default=None),
        )
    return courses


def has_diverged(losses: Sequence[float]) -> bool:
    """Return whether the mean of the last ten losses is more than twice the lowest mean of ten, or not finite."""
    if not losses:
        return True
    width = min(LINES, len(losses))
    mean_N = np.convolve(losses, np.full(width, 1 / width), mode="valid")
    return not np.isfinite(mean_N[-1]) or bool(mean_N[-1] > DIVERGED * np.nanmin(mean_N))


def read_curves(reproduction: Reproduction, plan: ReproductionPlan) -> dict[str, list[list[dict[str, Any]]]]:
    """Return the logs of every row that has a training of its own, one for each seed, by label."""
    curves = {}
    for row in plan.rows(reproduction):
        logs = [
            training_log(reproduction, row, plan, seed) for seed in range(FIRST_SEED, FIRST_SEED + plan.seeds)
        ]  # fmt: skip
        if row.recipe and any(logs):
            curves[row.label] = [log for log in logs if log]
    return curves


def describe_flattening(curves: Curves) -> str:
    """Return a sentence that says by how much each row's loss fell in the last fifth, and whether it is flat."""
    parts = []
    for label, logs in curves.items():
        falls = [loss_fall([line["loss"] for line in log if "loss" in line]) for log in logs]
        if any(fall is None for fall in falls):
            parts.append(f"`{label}` too few lines")
            continue
        fall = float(np.mean([fall for fall in falls if fall is not None]))
        parts.append(f"`{label}` {100 * fall:.1f} %" + ("" if fall <= FLAT else " (not flat)"))
    if not parts:
        return ""
    return "Fall of the loss in the last fifth of the steps against the fifth before: " + ", ".join(parts) + "."


def loss_fall(losses: Sequence[float]) -> float | None:
    """Return by which fraction the mean loss of the last fifth is below that of the fifth before; None for under 10."""
    width = len(losses) // 5
    if len(losses) < 10:
        return None
    before, last = float(np.mean(losses[-2 * width : -width])), float(np.mean(losses[-width:]))
    return (before - last) / abs(before)


def draw_curves(path: Path, curves: Curves) -> None:
    """Draw loss, gradient norm and loss scale over the steps, one colour a row, one line a seed.

    Raises:
        StoreError: the picture cannot be written.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    lines = [line for logs in curves.values() for log in logs for line in log]
    panels = {key: title for key, title in PANELS.items() if any(line.get(key) is not None for line in lines)}
    figure = Figure(figsize=(8, 2.6 * len(panels) + 0.4 + 0.06 * len(curves)), layout="constrained")
    for axes, (key, title) in zip(figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0], panels.items()):
        for number, (label, logs) in enumerate(curves.items()):
            for index, log in enumerate(logs):
                points = [(line["step"], line[key]) for line in log if line.get(key) is not None]
                if not points:
                    continue
                step_N, value_N = np.array(points, float).T
                scale = abs(value_N[0]) if key == "loss" else 1.0
                own = label if index == 0 else None
                axes.plot(step_N, value_N / scale, color=colormaps["tab20"](number % 20), linewidth=1.2, label=own)
        axes.set_title(title, loc="left", fontsize=9)
        axes.grid(alpha=0.4)
        axes.spines[["top", "right"]].set_visible(False)
        if key != "loss":
            axes.set_yscale("log")
    axes.set_xlabel("steps")
    # Below the panels, where it hides no line.
    figure.legend(*figure.axes[0].get_legend_handles_labels(), fontsize=7, ncols=4, loc="outside lower center")
    with atomic_write(path) as tmp:
        figure.savefig(tmp, dpi=150, format="png")


def course_values(courses: Mapping[str, Course]) -> list[dict[str, Any]]:
    """Return the courses as plain values."""
    return [asdict(course) | {"broken": course.is_broken} for course in courses.values()]
