"""What a leaderboard means, in one sentence about each system, worked out from its scores and intervals."""

from __future__ import annotations

from collections.abc import Sequence

from carrara.bench.leaderboard.ranking import Interval, Leaderboard, System
from carrara.bench.leaderboard.tables import best_systems

RANDOM = ":random"


def explain_systems(leaderboard: Leaderboard) -> dict[str, str]:
    """Return one sentence about each system by its name: average, tasks above chance, and what training added.

    A score is above chance where its interval ends above that of every floor, such as `noise`.
    """
    return {system.name: _explain(leaderboard, system) for system in leaderboard.systems}


def _explain(leaderboard: Leaderboard, system: System) -> str:
    average, tasks = system.average, leaderboard.ranked_tasks
    if average is None:
        average, tasks = system.full_average, leaderboard.averaged_tasks
    over = f"{_with_half_width(average)} on average over {_count(tasks)}" if average else "no average of all tasks"
    if system.is_floor:
        return f"{system.name} has {over}, which is what chance gives: its features say nothing about the music."
    num_ranked = sum(bool(each.rank) for each in leaderboard.systems)
    rank = f"rank {system.rank} of {num_ranked}" if system.rank else "no rank"
    parameters = max((result.record.encoder.parameters for result in system.results.values()), default=0)
    if system.name.endswith(RANDOM):
        kind = " with random weights, which is what the network's shape alone gives"
    else:
        kind = " with features that were never trained" if not parameters else ""
    facts = [_above_chance(leaderboard, system), _best_on(leaderboard, system), _training_effect(leaderboard, system)]
    said = [fact for fact in facts if fact]
    joined = f"{', '.join(said[:-1])}, and {said[-1]}" if len(said) > 1 else "".join(said)
    return f"{system.name} ({rank}) has {over}{kind}{f': it {joined}' if joined else ''}."


def _above_chance(leaderboard: Leaderboard, system: System) -> str:
    """Return on how many of the tasks that a floor has too the system is above every floor."""
    floors = [each for each in leaderboard.systems if each.is_floor]
    chance: dict[str, list[Interval]] = {}
    for floor in floors:
        for task, result in floor.results.items():
            chance.setdefault(task, []).append(result.score)
    tasks = [task for task in leaderboard.tasks if task in chance and task in system.results]
    if not tasks:
        return ""
    not_above = [
        task
        for task in tasks
        if not all(_is_better(leaderboard, task, system.results[task].score, floor) for floor in chance[task])
    ]
    if len(not_above) == len(tasks):
        return f"is above chance on none of {_count(tasks)}"
    if not not_above:
        return f"is above chance on {'all ' if len(tasks) > 1 else ''}{_count(tasks)}"
    above = [task for task in tasks if task not in not_above]
    which = f"not on {_names(not_above)}" if len(not_above) <= len(above) else _names(above)
    return f"is above chance on {len(above)} of {_count(tasks)} ({which})"


def _best_on(leaderboard: Leaderboard, system: System) -> str:
    tasks = [task for task, names in best_systems(leaderboard).items() if system.name in names]
    return f"has the best score of {_names(tasks)}" if tasks else ""


def _training_effect(leaderboard: Leaderboard, system: System) -> str:
    """Return by how many points training changed the average, where the same network with random weights is there.

    The average is the one that ranks are by, and so is the rule by which intervals separate two systems.
    """
    random = next((each for each in leaderboard.systems if each.name == system.name + RANDOM), None)
    if random is None:
        return ""
    trained, untrained = system.average, random.average
    if not (trained and untrained):
        trained, untrained = system.full_average, random.full_average
    if not (trained and untrained):
        return ""
    points = trained.value - untrained.value
    if trained.contains(untrained.value) and untrained.contains(trained.value):
        effect = f"differs by {points:+.1f} points, no more than the intervals allow,"
        return f"{effect} from the same network with random weights"
    effect = f"gained {points:.1f}" if points >= 0 else f"lost {-points:.1f}"
    return f"{effect} points by training over the same network with random weights"


def _is_better(leaderboard: Leaderboard, task: str, score: Interval, other: Interval) -> bool:
    """Return whether a score's whole interval is better than another's."""
    return score.high < other.low if leaderboard.better.get(task) == "lower" else score.low > other.high


def _with_half_width(interval: Interval) -> str:
    return f"{interval.value:.1f} ± {(interval.high - interval.low) / 2:.1f}"


def _count(tasks: Sequence[str]) -> str:
    return f"{len(tasks)} task{'s' * (len(tasks) != 1)}"


def _names(tasks: Sequence[str]) -> str:
    names = [task.partition("/")[2] or task for task in tasks]
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)
