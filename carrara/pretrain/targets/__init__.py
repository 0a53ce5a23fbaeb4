"""Pretext targets: one public file = one target, which defines `TARGET`."""

from carrara.core.registry import Registry

REGISTRY = Registry("target", "carrara.pretrain.targets", "TARGET", "carrara.targets")
