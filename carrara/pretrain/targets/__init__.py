"""Pretext targets: one public file = one target, which defines `TARGET`."""

from carrara.core.registry import Shelf

SHELF = Shelf("target", "carrara.pretrain.targets", "TARGET", "carrara.targets")
