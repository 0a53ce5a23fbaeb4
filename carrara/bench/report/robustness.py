"""The plot of the fall: each system's mean score on sound as it is and spoilt, over the rows asked of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from carrara.bench.leaderboard.ranking import PERCENT, Board, System
from carrara.bench.report.plots import drawing, looks, svg
from carrara.core.record import Record, Score


def deformations(board: Board) -> tuple[str, ...]:
    """Return the deformations that any record of the board was asked about, in the order in which they come."""
    records = (cell.record for system in board.systems for cell in system.cells.values())
    return tuple(dict.fromkeys(name for record in records for name in record.robustness))


def fall(system: System, deform: str) -> tuple[float, float, tuple[str, ...]] | None:
    """Return the mean of a system's cells as it is and spoilt, in percent, and their rows; none where there is none."""
    records = {
        task: cell.record
        for task, cell in system.cells.items()
        if deform in cell.record.robustness and all(score.scale == "ratio" for score in cell.record.scores.values())
    }
    if not records:
        return None
    clean = [_cell(record, record.scores) for record in records.values()]
    spoilt = [_cell(record, record.robustness[deform]) for record in records.values()]
    return PERCENT * sum(clean) / len(clean), PERCENT * sum(spoilt) / len(spoilt), tuple(records)


def deformed_plot(board: Board) -> str:
    """Return how far each system's mean score falls under each deformation, one panel line a deformation, as SVG."""
    from matplotlib.figure import Figure

    names = deformations(board)
    systems: Sequence[System] = [one for one in board.systems if any(fall(one, name) for name in names)]
    look = looks(board.systems)
    step = 0.7 / len(systems)
    with drawing("deformed"):
        figure = Figure(figsize=(9, 1.0 + len(names) * max(0.4, 0.2 * len(systems))), layout="constrained")
        axes = figure.add_subplot()
        for place, system in enumerate(systems):
            label = system.name
            for line, name in enumerate(names):
                found = fall(system, name)
                if found is None:
                    continue
                height = line + (place - (len(systems) - 1) / 2) * step
                colour, marker = look[system.name]["color"], look[system.name]["marker"]
                axes.plot(found[:2], [height, height], color=colour, linewidth=1.6)
                axes.plot(found[0], height, marker="|", markersize=9, color=colour)
                axes.plot(found[1], height, marker=marker, markersize=6, color=colour, linestyle="none", label=label)
                label = "_" + system.name
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("mean score in percent: | as it is, the mark on spoilt sound")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=4)
        return svg(figure, "Scores on spoilt sound")


def _cell(record: Record, scores: Mapping[str, Score]) -> float:
    own = record.task.task["scores"]
    return sum(scores[name].value for name in own) / len(own)
