"""Networks and their weights: one public file = one representation, which defines `ENCODER`."""

from carrara.core.registry import Registry

REGISTRY = Registry("encoder", "carrara.encoders", "ENCODER", "carrara.encoders")
