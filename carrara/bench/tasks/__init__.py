"""Tasks: one public file defines one task as `TASK`."""

from carrara.core.catalogue import Catalogue
from carrara.core.registry import Registry
from carrara.core.task import Task

REGISTRY = Registry("task", "carrara.bench.tasks", "TASK", "carrara.tasks")


def task(name: str) -> Task:
    """Return the task called `name`, with its name filled in.

    Raises:
        UsageError: no such task.
    """
    return REGISTRY.get(name).model_copy(update={"name": REGISTRY.get_entry(name).name})


CATALOGUE: Catalogue[Task] = Catalogue(REGISTRY, task)
