"""Settings changed on an encoder that is loaded: what it gives and how it hears, with the weights that it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from carrara.core.errors import UsageError, WeightsError
from carrara.core.settings import replace
from carrara.encoders import REGISTRY
from carrara.encoders._base import Encoder, EncoderFamily
from carrara.encoders._hub.load import family_entry
from carrara.formats.weights import load_state_dict_strict


def with_settings(encoder: Encoder, changes: Mapping[str, Any], source: str = "--set") -> Encoder:
    """Return an encoder with the same weights and other settings, in evaluation mode.

    Args:
        encoder: a loaded one.
        changes: settings by dotted path, for example `{"tokens": "frames"}` of a MAEST.
        source: what messages call the changes.

    Raises:
        UsageError: no such setting, a value that does not fit, or one that would need other weights.
    """
    if not changes:
        return encoder
    settings = replace(encoder.settings, changes, source)
    family: EncoderFamily = REGISTRY.get(family_entry(encoder.settings).name)
    card = family.update_card(encoder.card, settings) if family.update_card else encoder.card
    with torch.device("meta" if family.has_weights else "cpu"):
        other = family.build(settings, card, 0)
    try:
        load_state_dict_strict(other, encoder.state_dict(), encoder.card.name)
    except WeightsError as problem:
        raise UsageError(f"{source}: {', '.join(changes)} would need other weights ({problem})") from None
    other.card = other.card.model_copy(update={"weights_sha256": encoder.card.weights_sha256})
    return other.eval()
