"""Task types: one public file defines one type as `TASK_TYPE`."""

from carrara.core.registry import Registry

REGISTRY = Registry("task type", "carrara.bench.task_types", "TASK_TYPE")
