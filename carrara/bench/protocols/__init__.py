"""Sets of rules: one public file = one protocol, which defines `PROTOCOL`."""

from carrara.core.registry import Shelf

SHELF = Shelf("protocol", "carrara.bench.protocols", "PROTOCOL")
