"""Recordings and their labels: each public file defines one dataset as `DATASET`."""

from carrara.core.registry import Registry

REGISTRY = Registry("dataset", "carrara.data", "DATASET", "carrara.data")
