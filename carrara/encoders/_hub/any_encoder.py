"""Encoders from whatever users have: names, folders, encoders, networks, models of transformers, functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from carrara.core.errors import UsageError
from carrara.encoders._base import Encoder
from carrara.encoders._hub.load import load
from carrara.encoders._wrapped import wrap_encoder

AnyEncoder = str | Path | Encoder | nn.Module | Callable[..., Any]


def resolve_encoder(encoder: AnyEncoder, device: str | None = None, sample_rate: int | None = None) -> Encoder:
    """Return an encoder in evaluation mode.

    Args:
        encoder: as `carrara.load` takes it, an encoder, or what `carrara.encoders._wrapped` describes.
        device: where to put it. None leaves its weights where they are.
        sample_rate: of the samples that a network or function takes, in Hz.

    Raises:
        UsageError: it is no encoder, or has no known sample rate.
    """
    if isinstance(encoder, str | Path):
        return load(encoder, device or "cpu")
    if not callable(encoder):
        raise UsageError(
            f"a value of the type {type(encoder).__name__} is no encoder; give a name, a folder, a carrara.Encoder, a "
            "torch.nn.Module or a function"
        )
    if isinstance(encoder, type):
        raise UsageError(f"{encoder.__name__}: is a class; give an instance of it, such as {encoder.__name__}(…)")
    resolved = encoder if isinstance(encoder, Encoder) else wrap_encoder(encoder, sample_rate)
    return (resolved.to(device) if device else resolved).eval()
