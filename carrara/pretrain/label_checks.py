"""Checks of the targets' labels before the first step, because training on wrong labels looks like training.

A wrong dictionary once turned every label of a published recipe into one class, and the run went on
[notes/pretraining §0.3]. So every target labels some crops of the corpus, and is refused if its labels are out of
range, constant, too few for the frames, or do not belong to the audio at their time. For the last, a stretch of each
crop is replaced by other audio, and the labels that change must lie around the stretch.

Letters: B batch, T samples, F frames.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from carrara.core.errors import DataError
from carrara.pretrain.targets._base import Target

# A target with a longer window than the student may lack this many frames at the end of a clip.
MISSING_FRAMES = 2
# The replaced stretch, and the largest distance of the changes from it, as fractions of the crop.
SPLICE = (0.6, 0.8)
MAX_FRAMES_OFF, MAX_FRACTION_OFF = 3.0, 0.04
# Labels whose median change is above this fraction of the largest change everywhere, as those of a Transformer do.
GLOBAL_CHANGE = 0.1


def check_labels(targets: Mapping[str, Target], samples_BT: Tensor, num_frames: int) -> None:
    """Refuse targets whose labels cannot be right for crops of `num_frames` student frames.

    Raises:
        DataError: labels are out of range, constant, missing, not finite, or not at the time of the audio.
    """
    for name, target in targets.items():
        labels = target.labels(samples_BT, num_frames)
        depth = len(target.num_classes) or target.num_values
        if labels.ndim != 3 or labels.shape[0] != len(samples_BT) or labels.shape[2] != depth:
            raise DataError(
                f"target {name}: gives labels of shape {tuple(labels.shape)}, expected "
                f"({len(samples_BT)}, {num_frames}, {depth})"
            )
        if not num_frames - MISSING_FRAMES <= labels.shape[1] <= num_frames:
            raise DataError(
                f"target {name}: gives {labels.shape[1]} labels where the student has {num_frames} frames; "
                "its frame rate is not the network's"
            )
        if target.num_classes:
            _check_classes(name, target, labels)
        elif not torch.isfinite(labels).all():
            raise DataError(f"target {name}: gives values that are not finite")
        elif float(labels.std()) == 0.0:
            raise DataError(f"target {name}: gives the same value everywhere; is the corpus silent?")
        _check_alignment(name, target, samples_BT, labels)


def _check_classes(name: str, target: Target, labels: Tensor) -> None:
    if labels.is_floating_point():
        raise DataError(f"target {name}: gives {labels.dtype} where class numbers are expected")
    for codebook, num_classes in enumerate(target.num_classes):
        low, high = int(labels[..., codebook].min()), int(labels[..., codebook].max())
        if low < 0 or high >= num_classes:
            raise DataError(
                f"target {name}: gives classes from {low} to {high}, of which it has {num_classes} (0 upwards)"
            )
        if low == high:
            raise DataError(f"target {name}: gives class {low} everywhere; is the corpus silent, or the codebook dead?")


def _check_alignment(name: str, target: Target, samples_BT: Tensor, labels: Tensor) -> None:
    frames, grid = labels.shape[1], target.grid
    first, end = (round(part * frames) for part in SPLICE)
    start, stop = grid.centre + first * grid.hop, grid.centre + end * grid.hop
    spliced_BT = samples_BT.clone()
    # Another clip played backwards differs there even in a batch of one, or of steady tones.
    spliced_BT[:, start:stop] = samples_BT.flip(0, 1)[:, start:stop]
    changed = (target.labels(spliced_BT, frames) - labels).abs().float()
    change_F = (changed.ne(0).float() if target.num_classes else changed).sum(dim=(0, 2))
    if float(change_F.sum()) == 0.0:
        if torch.equal(spliced_BT, samples_BT):
            return
        raise DataError(f"target {name}: its labels do not change when the audio does; they are not of this audio")
    if not target.causal and change_F.median() > GLOBAL_CHANGE * change_F.max():
        # A Transformer's layer depends on the whole crop in each frame; such labels have no time to check.
        return
    if target.causal:
        # With a memory, labels go on changing after the stretch; only where the changes begin can be checked.
        offset = float(change_F.gt(0).nonzero()[0]) - first
    else:
        centre = float((change_F * torch.arange(frames, device=change_F.device)).sum() / change_F.sum())
        offset = centre - (first + end - 1) / 2
    if abs(offset) > max(MAX_FRAMES_OFF, MAX_FRACTION_OFF * frames):
        raise DataError(f"target {name}: its labels lie {offset:+.1f} frames off the audio; is its hop the network's?")
