"""Notes below a leaderboard, one sentence each: units, marks, missing tasks and excluded records."""

from __future__ import annotations

from collections.abc import Sequence

from carrara.bench.leaderboard.ranking import EXCEEDED, PARTIAL, TRAINED, Leaderboard, System

TRAINED_NOTE = f"{TRAINED} trained on this dataset, with its labels or without; the model's card says how."
PARTIAL_NOTE = f"{PARTIAL} a partial record: fewer clips than the task has; it counts in no average."
EXCEEDED_NOTE = f"{EXCEEDED} took longer than the time limit: in MARBLE one week for a task on one RTX 3090."
CATEGORY_NOTE = "Categories as in the thesis's figure 6.2, which leaves out beat tracking and source separation."
FLOOR_NOTE = (
    "floor: it says nothing about the music and has no rank. Probes on `noise` give what chance gives; `majority` "
    "always gives the answer that the training labels alone suggest."
)
OLD_INTERVALS_NOTE = (
    "Some intervals were computed by an earlier version, which took every clip to be independent; "
    "`carrara bench --overwrite always` computes them anew."
)
BEAT_TASK = "gtzan/beats"
BEAT_NOTE = (
    f"‡ on {BEAT_TASK}: which F-measure is printed is not certain; the text says 20 ms, the code pools tracks at 70 ms."
)


def leaderboard_notes(leaderboard: Leaderboard) -> list[str]:
    """Return the notes of a leaderboard."""
    systems, tasks, ranked_tasks = leaderboard.systems, leaderboard.averaged_tasks, leaderboard.ranked_tasks
    ranked = [system for system in systems if system.rank]
    unranked = [system for system in systems if not (system.rank or system.is_floor)]
    measured = (
        " with 95 % intervals over the test clips. Systems share a rank where their intervals do not separate them"
    )
    notes = [f"Scores in percent (R² too){measured * bool(systems)}."]
    resampled: dict[str, set[str]] = {}
    for system in systems:
        for task, result in system.results.items():
            score = next(iter(result.record.scores.values()))
            if score.method and score.groups < score.n:
                resampled.setdefault(score.resampled, set()).add(task)
    if resampled:
        groups = "; ".join(f"by {name} for {', '.join(sorted(resampled[name]))}" for name in sorted(resampled))
        notes.append(f"Clips of one group are no independent evidence, so intervals resample groups: {groups}.")
    records = [result.record for system in systems for result in system.results.values()]
    if any(not score.method for record in records for score in record.scores.values()):
        notes.append(OLD_INTERVALS_NOTE)
    if set(ranked_tasks) < set(tasks) and ranked:
        missing = ", ".join(task for task in tasks if task not in ranked_tasks)
        notes.append(f"Ranks compare equal sets of tasks: those that all ranked systems have, without {missing}.")
    if unranked:
        notes.append(f"No rank, for want of tasks in common: {', '.join(system.name for system in unranked)}.")
    if any(system.is_floor for system in systems):
        notes.append(FLOOR_NOTE)
    decibel_tasks = [task for task in leaderboard.tasks if leaderboard.scales.get(task) == "dB"]
    if decibel_tasks:
        mixes = any(task in tasks for task in decibel_tasks)
        mixture = "; an average over it mixes dB with percent, as MARBLE's does, and is the lower for it" * mixes
        notes.append(f"In dB: {', '.join(decibel_tasks)}{mixture}.")
    counts = borda_counts(ranked, ranked_tasks)
    by_count = sorted(ranked, key=lambda system: -counts[system.name])
    if [counts[system.name] for system in ranked] != [counts[system.name] for system in by_count]:
        notes.append(f"By Borda's count over these tasks the order is {', '.join(system.name for system in by_count)}.")
    marks = "".join(result.marks for system in systems for result in system.results.values())
    exceeded = EXCEEDED in marks or any(
        set(leaderboard.tasks) & each.exceeded_time_limit for each in leaderboard.published
    )
    notes += [TRAINED_NOTE] * (TRAINED in marks)
    notes += [PARTIAL_NOTE] * (PARTIAL in marks)
    notes += [EXCEEDED_NOTE] * exceeded
    if any(system.full_average is None for system in systems):
        notes.append("– no record.")
    if lower := sorted(set(leaderboard.tasks) - set(tasks)):
        notes.append(f"Lower is better for {', '.join(lower)}: in no average.")
    notes += [CATEGORY_NOTE] * bool(leaderboard.categories())
    for record in leaderboard.left_out:
        notes.append(
            f"Left out: {record.encoder.name} on {record.task.name}@{record.task.version} of {record.run.date}, which "
            "has another version of the task or other clips; `carrara bench` measures it again."
        )
    return notes + _published_notes(leaderboard)


def borda_counts(systems: Sequence[System], tasks: Sequence[str]) -> dict[str, float]:
    """Return each system's Borda count: over the tasks, how many others it is above; a tie counts half."""
    counts = dict.fromkeys((system.name for system in systems), 0.0)
    for task in tasks:
        for system in systems:
            value = system.results[task].score.value
            others = [other.results[task].score.value for other in systems if other is not system]
            counts[system.name] += sum(value > other for other in others) + sum(value == other for other in others) / 2
    return counts


def _published_notes(leaderboard: Leaderboard) -> list[str]:
    if not leaderboard.published:
        return []
    notes = [f"‡ printed in {', '.join(leaderboard.sources)}: not measured here, no interval, no rank."]
    notes += [BEAT_NOTE] * any(
        BEAT_TASK in leaderboard.tasks and "f1_beat" in system.tasks.get(BEAT_TASK, ())
        for system in leaderboard.published
    )
    noted: dict[str, list[str]] = {}  # systems with the same note stand in one line
    for system in leaderboard.published:
        for note, noted_tasks in system.notes:
            here = [task for task in leaderboard.tasks if task in noted_tasks]
            if here:
                on = "" if set(system.tasks) <= set(noted_tasks) else f" on {', '.join(here)}"
                noted.setdefault(f"{on}: {note}.", []).append(f"{system.name}‡")
    notes += [", ".join(names) + rest for rest, names in noted.items()]
    return notes
