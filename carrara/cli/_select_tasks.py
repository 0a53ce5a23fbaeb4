"""Select tasks by suite, name, pattern or task file."""

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

TASK_FILES = (".toml", ".py")


def select_tasks(suite: str | None, texts: list[str] | None) -> tuple[list[str | Task], dict[str, Dataset]]:
    """Return the tasks of a suite and of `texts` (Pebble's if both are None), and the datasets of task files by name.

    Args:
        suite: a suite's name.
        texts: task names, patterns such as `pebble/*`, or task files; a text may hold several, separated by commas.

    Raises:
        UsageError: there is no such suite, a pattern matches no task, or a file defines none.
    """
    if suite is not None and suite not in SUITES:
        raise UsageError(f"there is no suite {suite!r}.{did_you_mean(suite, SUITES)} The suites: {', '.join(SUITES)}.")
    selected: list[str | Task] = list(SUITES[suite or "pebble"].tasks) if suite or not texts else []
    datasets: dict[str, Dataset] = {}
    names = tasks.REGISTRY.names()
    parts = [part.strip() for text in texts or () for part in text.split(",") if part.strip()]
    for part in parts:
        if Path(part).suffix in TASK_FILES:
            from carrara.bench.task_file import read_task

            task, dataset = read_task(Path(part))
            selected.append(task)
            if dataset:
                datasets[task.dataset] = dataset
            continue
        matches = fnmatch.filter(names, part.replace("_", "-")) or [tasks.REGISTRY.get_entry(part).name]
        selected += [name for name in matches if name not in selected]
    return selected, datasets
