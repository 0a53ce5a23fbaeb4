"""One answer from a clip's several windows: four rules, of which validation may choose (JukeMIR; benchmark.md 1.1).

Each rule turns the logits of a clip's windows into one row whose highest place is the clip's class: how many windows
vote for it, its highest logit, its mean logit, its mean probability. Of rules that are equally good on validation the
first of this order is taken, and of classes that are equally high the first.

Letters: P probes, W windows of a clip, K classes, U clips.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def _votes(logits_PWK: Tensor) -> Tensor:
    return F.one_hot(logits_PWK.argmax(-1), logits_PWK.shape[-1]).sum(1).to(logits_PWK.dtype)


RULES: dict[str, Callable[[Tensor], Tensor]] = {
    "vote": _votes,
    "max-logit": lambda logits_PWK: logits_PWK.amax(1),
    "mean-logit": lambda logits_PWK: logits_PWK.mean(1),
    "mean-probability": lambda logits_PWK: logits_PWK.softmax(-1).mean(1),
}
MEAN = "mean-logit"


def joined(parts: Sequence[Tensor], rule: str = MEAN) -> Tensor:
    """Return one row a clip, `[P, U, K]`, from each clip's windows, `[P, W, K]` each."""
    return torch.stack([RULES[rule](part_PWK) for part_PWK in parts], dim=1)
