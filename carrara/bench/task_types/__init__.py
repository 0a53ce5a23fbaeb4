"""Kinds of answer: one public file = one kind, which defines `TASK_TYPE`."""

from carrara.core.registry import Registry

REGISTRY = Registry("kind of answer", "carrara.bench.task_types", "TASK_TYPE")
