"""Recordings and their labels: one public file = one dataset, which defines `DATASET`."""

from carrara.core.registry import Registry

REGISTRY = Registry("dataset", "carrara.data", "DATASET", "carrara.data")
