"""The heads: one public file = one network over frozen features, which defines `HEAD`."""

from carrara.core.registry import Registry

REGISTRY = Registry("head", "carrara.bench.probes.heads", "HEAD")
