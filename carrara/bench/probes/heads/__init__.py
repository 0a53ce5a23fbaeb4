"""The heads: each public file defines one network over frozen features as `HEAD`."""

from carrara.core.registry import Registry

REGISTRY = Registry("head", "carrara.bench.probes.heads", "HEAD")
