"""Networks and their weights: one public file = one representation, which defines `ENCODER`.

The package is a catalogue: `carrara.encoders["mert-v1-95m"]` is the card of that encoder.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

from carrara.core.catalogue import Catalogue
from carrara.core.registry import Registry

if TYPE_CHECKING:
    from carrara.encoders._base import Card

REGISTRY = Registry("encoder", "carrara.encoders", "ENCODER", "carrara.encoders")


def get_card(name: str) -> Card:
    """Return the card of a registered encoder, whether its weights are here or not.

    Raises:
        UsageError: there is no such encoder.
    """
    return REGISTRY.get(name).variants[REGISTRY.get_entry(name).name][0]


_registry, _lookup = REGISTRY, get_card


class _Package(Catalogue["Card"], ModuleType):
    """The package as a catalogue of its registry."""


sys.modules[__name__].__class__ = _Package
