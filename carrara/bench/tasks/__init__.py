"""The rows: one public file = one task, which defines `TASK`."""

from carrara.core.registry import Shelf
from carrara.core.task import Task

SHELF = Shelf("task", "carrara.bench.tasks", "TASK", "carrara.tasks")


def task(name: str) -> Task:
    """Return the task called `name`, with its name filled in.

    Raises:
        UsageError: no such task.
    """
    return SHELF.get(name).model_copy(update={"name": SHELF.entry(name).name})
