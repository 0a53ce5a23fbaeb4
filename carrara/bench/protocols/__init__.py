"""Protocols: one public file defines one protocol as `PROTOCOL`."""

from carrara.core.registry import Registry

REGISTRY = Registry("protocol", "carrara.bench.protocols", "PROTOCOL")
