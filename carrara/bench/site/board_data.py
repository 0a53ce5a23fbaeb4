"""The plain values that the site's pages show of leaderboards and systems; scores are in percent or dB."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from carrara.bench.leaderboard.notes import leaderboard_notes
from carrara.bench.leaderboard.ranking import (
    EXCEEDED,
    PERCENT,
    Interval,
    Leaderboard,
    System,
    TaskResult,
    mean_interval,
    to_interval,
)
from carrara.bench.report.plots import best_by_layer
from carrara.bench.tasks import REGISTRY as REGISTERED_TASKS
from carrara.core.errors import UsageError
from carrara.core.record import Record, Score
from carrara.encoders import REGISTRY, get_card

CARD_FACTS = (
    "license",
    "commercial_use",
    "parameters",
    "trained_on",
    "training_hours",
    "pretraining_task",
    "network",
    "input",
    "sample_rate",
    "num_layers",
    "dim",
    "frame_rate",
    "context_seconds",
    "paper",
)
DIGITS = 3


def slug_names(names: Iterable[str]) -> dict[str, str]:
    """Return for each name one that is safe in a path and an address; no two are equal where case is ignored."""
    slugs: dict[str, str] = {}
    used: set[str] = set()
    for name in dict.fromkeys(names):
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:80] or "x"
        slug, number = plain, 2
        while slug.lower() in used:
            slug, number = f"{plain}-{number}", number + 1
        used.add(slug.lower())
        slugs[name] = slug
    return slugs


def system_data(name: str, slug: str, record: Record) -> dict[str, Any]:
    """Return the facts about a system: what its record says, and the card of the encoder where it is registered."""
    encoder = record.encoder
    facts: dict[str, Any] = dict.fromkeys(CARD_FACTS)
    if encoder.name in REGISTRY.names():
        try:
            card = get_card(encoder.name).model_dump(mode="json", include=set(CARD_FACTS))
            facts |= {key: value for key, value in card.items() if value not in ("", 0, [])}
        except UsageError:
            pass
    facts |= {"parameters": encoder.parameters, "trained_on": list(encoder.trained_on)}
    if encoder.license:
        facts["license"] = encoder.license
    return {
        "name": name,
        "slug": slug,
        "encoder": encoder.name,
        "weights": encoder.weights_sha256,
        "settings": encoder.settings,
        **facts,
    }


def board_data(
    leaderboard: Leaderboard, names: Mapping[tuple[str, str], str], systems: Sequence[str], board_id: str
) -> dict[str, Any]:
    """Return a leaderboard: its tasks by level of the taxonomy, its systems, and the published ones.

    Args:
        leaderboard: measured and published systems.
        names: of each (encoder, weights) on the site.
        systems: the names in the order in which the site numbers systems.
        board_id: names the leaderboard in addresses.
    """
    infos = {
        task: result.record.task
        for system in leaderboard.systems
        for task, result in system.results.items()
        if not result.record.partial or task not in leaderboard.ranked_tasks
    }
    order = ("acoustic", "score", "performance", "high-level", "")
    levels = dict.fromkeys(leaderboard.tasks, "")
    for task in levels:
        if task in infos:
            levels[task] = str(infos[task].task.get("category", ""))
        elif task in REGISTERED_TASKS.names():
            levels[task] = REGISTERED_TASKS.get(task).category
    tasks = sorted(leaderboard.tasks, key=lambda task: order.index(levels[task]) if levels[task] in order else 9)
    slugs = slug_names(tasks)
    number = {task: index for index, task in enumerate(tasks)}
    counts = {task: _units(leaderboard, task) for task in tasks}
    return {
        "id": board_id,
        "suite": leaderboard.suite,
        "protocol": leaderboard.protocol,
        "title": leaderboard.title,
        "ranked": [number[task] for task in leaderboard.ranked_tasks],
        "averaged": [number[task] for task in leaderboard.averaged_tasks],
        "tasks": [
            {
                "name": task,
                "slug": slugs[task],
                "level": levels[task],
                "better": leaderboard.better.get(task, "higher"),
                "unit": "dB" if leaderboard.scales.get(task) == "dB" else "%",
                "metrics": list(infos[task].task["metrics"]) if task in infos else [],
                "version": infos[task].version if task in infos else None,
                "fingerprint": infos[task].fingerprint if task in infos else "",
                "n": counts[task],
            }
            for task in tasks
        ],
        "entries": [_entry(system, leaderboard, names, systems, tasks, levels) for system in leaderboard.systems],
        "published": [
            {
                "name": system.name,
                "sources": list(system.sources),
                "average": _rounded(system.average(leaderboard.averaged_tasks)),
                "results": {
                    number[task]: [_rounded(system.score(task)), EXCEEDED * (task in system.exceeded_time_limit)]
                    for task in tasks
                    if task in system.tasks
                },
            }
            for system in leaderboard.published
        ],
        "notes": leaderboard_notes(leaderboard),
    }


def system_details(system: System, board_id: str) -> dict[str, Any]:
    """Return what a system's page shows of each task: layers, chosen probe, cost, corrupted audio, provenance."""
    tasks = {}
    for task, result in system.results.items():
        record = result.record
        unit = PERCENT if next(iter(record.scores.values())).scale == "ratio" else 1.0
        tasks[task] = {
            "layers": [[layer, _rounded(score)] for layer, score in best_by_layer(record.grid, unit).items()],
            "monitor": record.protocol.monitor,
            "chosen": record.protocol.chosen,
            "tried": record.protocol.tried,
            "seconds": record.run.seconds,
            "device": record.run.device,
            "date": record.run.date,
            "command": record.run.command,
            "metrics": {name: _interval(to_interval(score)) for name, score in record.scores.items()},
            "robustness": {name: _corrupted(record, scores) for name, scores in record.robustness.items()},
        }
    return {"board": board_id, "tasks": tasks}


def _entry(
    system: System,
    leaderboard: Leaderboard,
    names: Mapping[tuple[str, str], str],
    systems: Sequence[str],
    tasks: Sequence[str],
    levels: Mapping[str, str],
) -> dict[str, Any]:
    records = [result.record for result in system.results.values()]
    complete = system.complete_tasks()
    means = {}
    for level in dict.fromkeys(levels.values()):
        members = [task for task in leaderboard.averaged_tasks if levels[task] == level]
        if level and members and set(members) <= complete:
            results = [system.results[task] for task in members]
            means[level] = _interval(mean_interval([r.score for r in results], [r.draw_G for r in results])[0])
    ranked = [system.results[task].record for task in leaderboard.ranked_tasks if task in complete]
    seconds = sum(sum(record.run.seconds.values()) for record in ranked)
    return {
        "system": systems.index(names[records[0].encoder.name, records[0].encoder.weights_sha256]),
        "rank": system.rank,
        "floor": system.is_floor,
        "average": _interval(system.average),
        "full_average": _interval(system.full_average),
        "complete": len(complete & set(leaderboard.averaged_tasks)),
        "levels": means,
        "results": {index: _result(system.results[task]) for index, task in enumerate(tasks) if task in system.results},
        "seconds": _rounded(seconds) if len(ranked) == len(leaderboard.ranked_tasks) else None,
        "clips_per_second": _rounded(clips_per_second(records)),
    }


def clips_per_second(records: Iterable[Record]) -> float | None:
    """Return how many clips a second were encoded in the slowest of some runs; None where none says.

    Features that a run finds in the cache take no time, so only the slowest has encoded all of its clips.
    """
    rates = [
        sum(record.data.n.values()) / record.run.seconds["features"]
        for record in records
        if record.run.seconds.get("features", 0) > 0
    ]
    return min(rates, default=None)


def _result(result: TaskResult) -> list[Any]:
    """Return value, low, high, marks, and the layer of the chosen probe ("" where there was no choice)."""
    layer = result.record.protocol.chosen.get("layer", "")
    return [*(_interval(result.score) or []), result.marks, str(layer)]


def _units(leaderboard: Leaderboard, task: str) -> int | None:
    scores = [
        next(iter(system.results[task].record.scores.values())).n
        for system in leaderboard.systems
        if task in system.results
    ]
    return max(scores, default=None)


def _corrupted(record: Record, scores: Mapping[str, Score]) -> float | None:
    names = record.task.task["metrics"]
    if any(name not in scores for name in names):
        return None
    return _rounded(sum(to_interval(scores[name]).value for name in names) / len(names))


def _interval(interval: Interval | None) -> list[float | None] | None:
    return [_rounded(value) for value in (interval.value, interval.low, interval.high)] if interval else None


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round_for_page(value)


def round_for_page(value: float) -> float:
    """Return a score to three decimals, or four where the page would otherwise show another tenth than the terminal."""
    rounded, shown = round(value, DIGITS), float(f"{value:.1f}")
    if math.isclose(abs(rounded - shown), 0.05, abs_tol=1e-9):  # halfway between two tenths
        return round(rounded + math.copysign(0.1**DIGITS / 10, shown - rounded), DIGITS + 1)
    return rounded
