"""Rules that combine a clip's several windows into one prediction; validation may choose one [notes/benchmark §1.1].

As in JukeMIR [castellon2021], each rule turns the logits of a clip's windows into one row whose highest entry is the
clip's class: the number of windows that vote for it, its highest logit, its mean logit, its mean probability. Of equal
rules validation chooses the first in this order, and of equal classes the first.

Letters: P probes, W windows of a clip, K classes, U clips.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

RULES: dict[str, Callable[[Tensor], Tensor]] = {
    "vote": lambda logits_PWK: F.one_hot(logits_PWK.argmax(-1), logits_PWK.shape[-1]).sum(1).to(logits_PWK.dtype),
    "max-logit": lambda logits_PWK: logits_PWK.amax(1),
    "mean-logit": lambda logits_PWK: logits_PWK.mean(1),
    "mean-probability": lambda logits_PWK: logits_PWK.softmax(-1).mean(1),
}
MEAN = "mean-logit"


def combine_windows(logits_by_clip: Sequence[Tensor], rule: str = MEAN) -> Tensor:
    """Return one row for each clip, `[P, U, K]`, from the logits of each clip's windows, `[P, W, K]`."""
    return torch.stack([RULES[rule](logits_PWK) for logits_PWK in logits_by_clip], dim=1)
