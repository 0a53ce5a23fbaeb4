"""Recordings and their labels: each public file defines one dataset as `DATASET`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from carrara.core.catalogue import Catalogue
from carrara.core.registry import Registry

if TYPE_CHECKING:
    from carrara.data._base import Dataset

REGISTRY = Registry("dataset", "carrara.data", "DATASET", "carrara.data")
CATALOGUE: Catalogue[Dataset] = Catalogue(REGISTRY, REGISTRY.get)
