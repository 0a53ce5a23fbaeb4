"""A journal as a picture, `journal.png`: the loss, the masked accuracy, and the probes' scores over one axis of steps.

Where a journal has no accuracy (a teacher's values are predicted) or no probes, that panel is left out. `draw(folder)`
draws any journal, old ones too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carrara.core.io import atomic_write
from carrara.pretrain.metrics_log import NAME, PROBES, probed, read

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE = "journal.png"
# Okabe and Ito's colours, which colour-blind eyes tell apart; each line has its name at its end too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f")
INK, SOFT, RULE = "#22262b", "#666d76", "#e3e5e1"
MOST_LINES = 8
INCHES_WIDE, INCHES_A_PANEL = 8.0, 2.5
# Names closer than this share of a panel's height would cover one another.
NAME_HEIGHT = 0.075
APART = 0.004

Line = tuple[list[int], list[float], list[tuple[float, float]]]


def draw(folder: Path | str) -> Path | None:
    """Draw the journal of a run and return the picture's path; none where nothing was measured yet.

    Raises:
        StoreError: it cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    panels = [panel for panel in _panels(Path(folder) / NAME) if panel[1]]
    if not panels:
        return None
    style: dict[Any, Any] = {"font.size": 9, "text.color": INK, "text.parse_math": False}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(INCHES_WIDE, 0.5 + INCHES_A_PANEL * len(panels)), layout="constrained")
        grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (title, lines) in zip(grid, panels):
            _panel(axes, title, lines)
        grid[-1].set_xlabel("steps", color=SOFT)
        path = Path(folder) / PICTURE
        with atomic_write(path) as draft:
            figure.savefig(draft, format="png", dpi=150, metadata={"Software": "carrara"})
    return path


def _panels(journal: Path) -> list[tuple[str, dict[str, Line]]]:
    """Return each panel's title and lines: steps, values, and for scores their intervals."""
    lines = read(journal)
    accuracy = {
        name.removeprefix("accuracy/"): _line(lines, name, 100)
        for name in dict.fromkeys(key for line in lines for key in line if key.startswith("accuracy/"))
    }
    if len(accuracy) > MOST_LINES:
        accuracy = {f"mean of {len(accuracy)} label sets": _mean(lines)}
    loss = {"loss": _line(lines, "loss", 1)} if any("loss" in line for line in lines) else {}
    return [
        ("loss", loss),
        ("masked accuracy, %", accuracy),
        ("probes on validation clips, % with 95 % intervals", _scores(probed(journal))),
    ]


def _line(lines: Sequence[Mapping[str, Any]], key: str, factor: float) -> Line:
    held = [line for line in lines if key in line]
    return [line["step"] for line in held], [factor * line[key] for line in held], []


def _mean(lines: Sequence[Mapping[str, Any]]) -> Line:
    held = [(line["step"], [line[key] for key in line if key.startswith("accuracy/")]) for line in lines]
    return [step for step, found in held if found], [100 * sum(each) / len(each) for _, each in held if each], []


def _scores(lines: Sequence[Mapping[str, Any]]) -> dict[str, Line]:
    found: dict[str, Line] = {}
    for line in lines:
        for name, score in line[PROBES].items():
            steps, values, spans = found.setdefault(f"{name}, {score['metric']}", ([], [], []))
            steps.append(line["step"])
            values.append(100 * score["score"])
            spans.append((100 * score["low"], 100 * score["high"]))
    return found


def _panel(axes: Axes, title: str, lines: Mapping[str, Line]) -> None:
    axes.set_title(title, loc="left", fontsize=9, fontweight="bold")
    longest = max(max(steps) for steps, _, _ in lines.values())
    for place, (steps, values, spans) in enumerate(lines.values()):
        colour = COLOURS[place % len(COLOURS)]
        # Intervals stand beside one another, so that none hides another.
        apart = (place - len(lines) / 2 + 0.5) * APART * longest if spans else 0.0
        at = [step + apart for step in steps]
        axes.plot(at, values, color=colour, linewidth=1.6, marker="o" if spans or len(steps) == 1 else "", ms=3.5)
        if spans:
            axes.vlines(at, [low for low, _ in spans], [high for _, high in spans], color=colour, lw=1, alpha=0.5)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.grid(axis="y", color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=SOFT)
    if len(lines) > 1 or any(spans for _, _, spans in lines.values()):
        _name(axes, lines)


def _name(axes: Axes, lines: Mapping[str, Line]) -> None:
    """Write each line's name beside its last value, pushed apart where they would cover one another."""
    low, high = axes.get_ylim()
    ends = sorted((values[-1], place, name) for place, (name, (_, values, _)) in enumerate(lines.items()))
    height, last = (high - low) * NAME_HEIGHT, low - (high - low)
    for value, place, name in ends:
        last = max(value, last + height)
        axes.annotate(
            name,
            (1.01, last),
            xycoords=("axes fraction", "data"),
            color=COLOURS[place % len(COLOURS)],
            va="center",
            fontsize=8,
            annotation_clip=False,
        )
