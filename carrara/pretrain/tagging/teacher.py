"""A teacher's answers as targets: a tag is given where the teacher is sure enough, and its likeliest tag always.

Encoders.md, section 1.5: probabilities above 0.45 become 1, all others 0, and where none does the highest becomes 1.
The teacher hears each crop as it is, before mixup and masks; its answers are mixed like the tags.

Letters: B batch, T samples, C tags.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from carrara.core.errors import UsageError
from carrara.encoders._hub.load import load
from carrara.encoders._maest.network import MaestEncoder
from carrara.pretrain.tagging.settings import TaggerTeacherSettings
from carrara.pretrain.tagging.tagged import see_same


def teacher_of(settings: TaggerTeacherSettings, names: Sequence[str], device: torch.device) -> MaestEncoder | None:
    """Return the teacher, or none where there is none.

    Raises:
        UsageError: it is no tagger, or knows other tags.
    """
    if not settings.weights:
        return None
    teacher = load(settings.weights, device)
    if not isinstance(teacher, MaestEncoder):
        raise UsageError(f"{settings.weights}: tells no tags, so it cannot teach them; give a MAEST trained on them")
    see_same(
        names, teacher.settings.labels, f"the teacher {settings.weights}", "give one that was taught the same tags"
    )
    return teacher


@torch.no_grad()
def told(teacher: MaestEncoder, samples_BT: Tensor, threshold: float) -> Tensor:
    """Return the teacher's targets, 0 or 1, `[B, C]`."""
    probability_BC = teacher.tags(samples_BT)
    given_BC = probability_BC > threshold
    likeliest_BC = torch.zeros_like(given_BC).scatter(1, probability_BC.argmax(1, keepdim=True), True)
    return torch.where(given_BC.any(1, keepdim=True), given_BC, likeliest_BC).float()
