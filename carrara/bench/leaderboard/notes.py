"""What a reader of a board must know, a sentence each: units, marks, what is missing, what was left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from carrara.bench.leaderboard.ranking import Board, System
    from carrara.core.record import Record

TRAINED = "† trained on this dataset, with its labels or without; the model's card says how."
PARTIAL = "* a partial record: fewer clips than the task has; it counts in no average."
WALLED = "§ took longer than the computational wall allows: one week for a task on one RTX 3090."
LEVELLED = "Levels as in the thesis's figure 6.2, which leaves out beats and separation."


def notes(board: Board, averaged: Sequence[str], left: Sequence[Record]) -> list[str]:
    """Return the notes of a board: `averaged` are the rows that its averages are over, `left` what it leaves out."""
    found = ["Scores in percent (R² too) with 95 % intervals over the test clips; a shared rank: not to be told apart."]
    found += mixed(board)
    complete = [system for system in board.systems if system.average]
    points = borda(complete, averaged)
    by_points = sorted(complete, key=lambda system: -points[system.name])
    if [points[system.name] for system in complete] != [points[system.name] for system in by_points]:
        found.append(f"By Borda's count over the rows the order is {', '.join(system.name for system in by_points)}.")
    cells = [cell for system in board.systems for cell in system.cells.values()]
    found += [TRAINED] * any(cell.trained for cell in cells)
    found += [PARTIAL] * any(cell.partial for cell in cells)
    found += [WALLED] * any(cell.walled for cell in cells)
    if len(complete) < len(board.systems):
        found.append(f"– no record. Only systems with all {len(averaged)} rows have a rank and an average over them.")
    if len(averaged) < len(board.tasks):
        lower = ", ".join(sorted(set(board.tasks) - set(averaged)))
        found.append(f"Lower is better for {lower}: in no average.")
    found += [LEVELLED] * bool(board.levels())
    for record in left:
        found.append(
            f"Left out: {record.encoder.name} on {record.task.name}@{record.task.version} of {record.run.date}, which "
            "was asked of another version of the task or of other clips; `carrara bench` measures it again."
        )
    return found


def borda(systems: Sequence[System], tasks: Sequence[str]) -> dict[str, float]:
    """Return each system's Borda count: over the rows, how many others it is above; a tie counts half."""
    points = dict.fromkeys((system.name for system in systems), 0.0)
    for task in tasks:
        for one in systems:
            mine = one.cells[task].span.value
            others = [other.cells[task].span.value for other in systems if other is not one]
            points[one.name] += sum(mine > value for value in others) + sum(mine == value for value in others) / 2
    return points


def mixed(board: Board) -> list[str]:
    """Return which rows are in dB, and that an average mixes them with percent; nothing where all are in percent."""
    decibels = [task for task in board.tasks if board.scales.get(task) == "dB"]
    if not decibels:
        return []
    said = f"In dB: {', '.join(decibels)}"
    if all(board.better.get(task) == "lower" for task in decibels):
        return [f"{said}."]
    return [f"{said}; an average over it mixes dB with percent, as MARBLE's does, and is the lower for it."]
