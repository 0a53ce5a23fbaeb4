"""Are these labels of this sound? Asked before the first step, because training on wrong labels looks like training.

A wrong dictionary once turned every label of a published recipe into one and the same class, and the run went on
(pretraining.md, section 0.3). So every target is asked on crops of the corpus, and refused when its labels are out of
range, constant, too few for the frames, or not where the sound is. The last is seen by a splice: a stretch of each crop
is replaced by other sound, and the labels that change must lie around the stretch.

Letters: B batch, T samples, F frames.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from carrara.core.errors import DataError
from carrara.pretrain.targets._base import Target

# At the end of a clip a target with a longer window may have fewer frames than the student.
FEWER_FRAMES = 2
SPLICE = (0.6, 0.8)
FRAMES_OFF, SHARE_OFF = 3.0, 0.04
EVERYWHERE = 0.1


def check(targets: Mapping[str, Target], samples_BT: Tensor, frames: int) -> None:
    """Refuse targets whose labels cannot be right for these crops, which give the student so many frames.

    Raises:
        DataError: labels are out of range, constant, missing, not finite, or elsewhere than the sound.
    """
    for name, target in targets.items():
        labels = target.labels(samples_BT, frames)
        _check_shape(name, target, labels, len(samples_BT), frames)
        _check_range(name, target, labels)
        _check_place(name, target, samples_BT, labels)


def _check_shape(name: str, target: Target, labels: Tensor, clips: int, frames: int) -> None:
    wide = len(target.num_classes) or target.num_values
    if labels.ndim != 3 or labels.shape[0] != clips or labels.shape[2] != wide:
        raise DataError(
            f"target {name}: gives labels of shape {tuple(labels.shape)}, wanted ({clips}, {frames}, {wide})"
        )
    if not frames - FEWER_FRAMES <= labels.shape[1] <= frames:
        raise DataError(
            f"target {name}: gives {labels.shape[1]} labels where the student has {frames} frames; "
            "its frame rate is not the network's"
        )


def _check_range(name: str, target: Target, labels: Tensor) -> None:
    if not target.num_classes:
        if not torch.isfinite(labels).all():
            raise DataError(f"target {name}: gives values that are not finite")
        if float(labels.std()) == 0.0:
            raise DataError(f"target {name}: gives the same value everywhere; is the corpus silent?")
        return
    if labels.is_floating_point():
        raise DataError(f"target {name}: gives {labels.dtype} where class numbers are wanted")
    for book, classes in enumerate(target.num_classes):
        codes = labels[..., book]
        low, high = int(codes.min()), int(codes.max())
        if low < 0 or high >= classes:
            raise DataError(f"target {name}: gives classes from {low} to {high}, of which it has {classes} (0 upwards)")
        if low == high:
            raise DataError(f"target {name}: gives class {low} everywhere; is the corpus silent, or the codebook dead?")


def _check_place(name: str, target: Target, samples_BT: Tensor, labels: Tensor) -> None:
    frames = labels.shape[1]
    first, end = (round(part * frames) for part in SPLICE)
    grid = target.grid
    begin, stop = grid.centre + first * grid.hop, grid.centre + end * grid.hop
    spliced_BT = samples_BT.clone()
    # Another clip played backwards: even a batch of one, or of steady tones, then sounds different there.
    spliced_BT[:, begin:stop] = samples_BT.flip(0, 1)[:, begin:stop]
    changed = (target.labels(spliced_BT, frames) - labels).abs().float()
    change_F = (changed.ne(0).float() if target.num_classes else changed).sum(dim=(0, 2))
    if float(change_F.sum()) == 0.0:
        if torch.equal(spliced_BT, samples_BT):
            return
        raise DataError(f"target {name}: its labels do not change when the sound does; they are not of this sound")
    if not target.causal and change_F.median() > EVERYWHERE * change_F.max():
        # A Transformer's layer hears the whole crop in each frame; such labels have no place to be judged by.
        return
    found = float((change_F * torch.arange(frames, device=change_F.device)).sum() / change_F.sum())
    wanted = (first + end - 1) / 2
    if target.causal:
        # With a memory, labels go on changing after the splice; where they begin to is what can be looked at.
        found, wanted = float(change_F.gt(0).nonzero()[0]), float(first)
    if abs(found - wanted) > max(FRAMES_OFF, SHARE_OFF * frames):
        raise DataError(
            f"target {name}: its labels lie {found - wanted:+.1f} frames off the sound; is its hop the network's?"
        )
