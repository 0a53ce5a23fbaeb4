"""The check of a scale's name; read without importing torch."""

from __future__ import annotations

from collections.abc import Collection

from carrara.core.errors import UsageError, did_you_mean


def check_scale(recipe: str, scale: str, scales: Collection[str]) -> None:
    """Check that a recipe has a scale of that name.

    Raises:
        UsageError: it has not; the message lists its scales.
    """
    if scale not in scales:
        raise UsageError(f"{recipe} has no scale {scale!r}.{did_you_mean(scale, scales)} Scales: {', '.join(scales)}.")
