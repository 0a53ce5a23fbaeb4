"""Where to compute: the word a person types, made into a device that is there."""

from __future__ import annotations

import torch

from carrara.core.errors import UsageError


def pick_device(word: str = "auto") -> str:
    """Return `cuda`, `mps` or `cpu`, the first that is there, for `auto`; any other word is checked and returned.

    Raises:
        UsageError: not a device, or one that this machine has not.
    """
    if word == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=word)
    except (RuntimeError, AssertionError) as problem:
        raise UsageError(f"--device {word}: {str(problem).splitlines()[0]}; auto picks one that is there") from None
    return word
