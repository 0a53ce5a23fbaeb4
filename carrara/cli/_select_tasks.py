"""Which tasks a person means: a suite, names, patterns, or files of their own."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from carrara.bench import tasks
from carrara.bench.suites import SUITES
from carrara.core.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from carrara.core.task import Task
    from carrara.data._base import Dataset

FILES = (".toml", ".py")


def chosen_tasks(suite: str | None, words: list[str] | None) -> tuple[list[str | Task], dict[str, Dataset]]:
    """Return the tasks of a suite and those that the words name (pebble's if neither), and the files' own datasets.

    Raises:
        UsageError: no such suite, a pattern that matches no task, or a file that defines none.
    """
    if suite is not None and suite not in SUITES:
        raise UsageError(f"there is no suite {suite!r}.{did_you_mean(suite, SUITES)} The suites: {', '.join(SUITES)}.")
    chosen: list[str | Task] = list(SUITES[suite or "pebble"].tasks) if suite or not words else []
    datasets: dict[str, Dataset] = {}
    known = tasks.REGISTRY.names()
    for word in (part.strip() for text in words or () for part in text.split(",") if part.strip()):
        if Path(word).suffix in FILES:
            from carrara.bench.task_file import read_task

            task, dataset = read_task(Path(word))
            chosen.append(task)
            datasets |= {task.dataset: dataset} if dataset else {}
            continue
        matches = fnmatch.filter(known, word.replace("_", "-")) or [tasks.REGISTRY.entry(word).name]
        chosen += [name for name in matches if name not in chosen]
    return chosen, datasets
