"""Sets of rules: one public file = one protocol, which defines `PROTOCOL`."""

from carrara.core.registry import Registry

REGISTRY = Registry("protocol", "carrara.bench.protocols", "PROTOCOL")
