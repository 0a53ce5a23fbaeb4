"""Recordings and their labels: one public file = one dataset, which defines `DATASET`."""

from carrara.core.registry import Shelf

SHELF = Shelf("dataset", "carrara.data", "DATASET", "carrara.data")
