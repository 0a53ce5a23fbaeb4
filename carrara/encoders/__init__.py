"""Networks and their weights: one public file = one representation, which defines `ENCODER`."""

from carrara.core.registry import Shelf

SHELF = Shelf("encoder", "carrara.encoders", "ENCODER", "carrara.encoders")
