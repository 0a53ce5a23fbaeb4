"""Select tasks by suite, name, pattern, task file or folder of recordings."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from pathlib import Path

from carrara.bench import tasks
from carrara.bench.suites import SUITES
from carrara.core.errors import UsageError, did_you_mean
from carrara.core.task import Task
from carrara.data import REGISTRY as DATASETS
from carrara.data._base import Dataset

TASK_FILES = (".toml", ".py")


def select_tasks(
    suite: str | None, texts: str | Path | Task | Iterable[str | Path | Task] | None
) -> tuple[list[str | Task], dict[str, Dataset]]:
    """Return the tasks of a suite and of `texts` (Pebble's if both are None), and the datasets of task files by name.

    Args:
        suite: a suite's name.
        texts: tasks, task names, patterns such as `pebble/*`, task files, or folders of recordings with labels; a text
            may hold several, separated by commas.

    Raises:
        UsageError: there is no such suite, a pattern matches no task, or a file or folder defines none.
        DataError: the labels of a folder cannot be read.
    """
    if suite is not None and suite not in SUITES:
        raise UsageError(f"there is no suite {suite!r}.{did_you_mean(suite, SUITES)} The suites: {', '.join(SUITES)}.")
    if texts is not None and not isinstance(texts, Iterable | Path):
        raise UsageError(f"tasks: give names, patterns, files or tasks, not a value of the type {type(texts).__name__}")
    given = [texts] if isinstance(texts, str | Path | Task) else list(texts or ())
    if texts is not None and not given and suite is None:
        raise UsageError("tasks: an empty list; give names or patterns, or None for those of Pebble")
    selected: list[str | Task] = list(SUITES[suite or "pebble"].tasks) if suite or not given else []
    datasets: dict[str, Dataset] = {}
    names = tasks.REGISTRY.names()
    parts: list[str | Task] = []
    for text in given:
        is_path = isinstance(text, Path) or (isinstance(text, str) and Path(text).exists())
        if isinstance(text, Task):
            parts.append(text)
        else:
            parts += [str(text)] if is_path else [part.strip() for part in str(text).split(",") if part.strip()]
    for part in parts:
        if isinstance(part, Task):
            selected.append(part)
        elif Path(part).suffix in TASK_FILES or (part not in names and Path(part).is_dir()):
            from carrara.bench.task_file import read_task

            task, dataset = read_task(Path(part))
            if task.name in (other.name for other in selected if isinstance(other, Task)):
                raise UsageError(
                    f"{part}: a second task called {task.name!r}, whose records would overwrite the first's; rename it"
                )
            selected.append(task)
            if dataset:
                folder = getattr(dataset, "folder", None)
                known = getattr(datasets.get(task.dataset), "folder", None) or folder
                if folder and known and (task.dataset in DATASETS.names() or folder.resolve() != known.resolve()):
                    raise UsageError(
                        f"{part}: there is another dataset called {task.dataset!r}; give the one in {folder} a name "
                        'of its own: dataset = "NAME"'
                    )
                datasets[task.dataset] = dataset
        else:
            matches = fnmatch.filter(names, part.replace("_", "-")) or [tasks.REGISTRY.get_entry(part).name]
            selected += [name for name in matches if name not in selected]
    return selected, datasets
