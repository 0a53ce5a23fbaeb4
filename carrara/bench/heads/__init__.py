"""The heads: one public file = one network over frozen features, which defines `HEAD`."""

from carrara.core.registry import Shelf

SHELF = Shelf("head", "carrara.bench.heads", "HEAD")
