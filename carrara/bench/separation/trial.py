"""One point of the search in training: a head for each stem, their Adam, their history, their best weights.

All stems of a point share its layer, learning rate, schedule and best epoch, which the mean SDR chooses; in MARBLE each
stem is a run of its own and could choose for itself. The heads share no weights, so their losses simply add up.

Letters: B mixtures, F frames, D features, J stems, K bins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from carrara.bench.probes.lr_schedule import ProbeHistory
from carrara.bench.probes.probe import ProbeSpec
from carrara.bench.probes.rng import initial_generator
from carrara.bench.separation.head import MaskHeadShape, build_mask_head, initial_heads

LayerFeatures = Mapping[int, Tensor]  # layer → [B, F, D]
COPIES = 5  # of the parameters: values, gradients, two moments, the best epoch


@dataclass(frozen=True)
class MixtureBatch:
    """Mixtures of a step, or a part of them.

    Attributes:
        features: of the mixtures, by layer.
        mixture_BFK: their magnitudes.
        stems_BJFK: the magnitudes of their stems.
        weight: fraction of the step's mixtures; the weights of a step add up to 1.
        last: whether it closes its step.
    """

    features: LayerFeatures
    mixture_BFK: Tensor
    stems_BJFK: Tensor
    weight: float
    last: bool


class SeparationTrial:
    """A point of the search with its heads."""

    def __init__(
        self,
        spec: ProbeSpec,
        shape: MaskHeadShape,
        stems: int,
        history: ProbeHistory,
        device: str,
        weight_decay: float = 0.0,
    ) -> None:
        self.spec, self.history = spec, history
        seed = initial_generator(spec.seed, spec.layer, spec.learning_rate).initial_seed()
        self.heads = initial_heads(shape, stems, seed).to(device)
        # Without weight decay it is Adam.
        self.adam = torch.optim.AdamW(
            self.heads.parameters(), lr=spec.learning_rate, weight_decay=weight_decay, fused=True
        )
        self.dropout_rng = torch.Generator(device).manual_seed(seed)
        self.best: dict[str, Tensor] | None = None
        self.loss_sum = torch.zeros((), device=device)

    def train_batch(self, batch: MixtureBatch) -> None:
        """Add the gradients of a batch; if it is the last of its step, update the weights."""
        self.heads.train()
        x = self._inputs(batch.features)
        for stem, head in enumerate(self.heads):
            estimate_BFK = head(x, self.dropout_rng) * batch.mixture_BFK
            loss = torch.nn.functional.mse_loss(estimate_BFK, batch.stems_BJFK[:, stem]) * batch.weight
            loss.backward()
            self.loss_sum += loss.detach()
        if batch.last:
            self.adam.step()
            self.adam.zero_grad(set_to_none=False)

    @torch.no_grad()
    def masks(self, features: LayerFeatures) -> Tensor:
        """Return the masks for windows, `[B, J, F, K]`."""
        self.heads.eval()
        x = self._inputs(features)
        return torch.stack([head(x) for head in self.heads], dim=1)

    def end_epoch(self, steps: int, score: float) -> None:
        """Add an epoch's validation score to the history, and set the next learning rate."""
        if self.history.update(self.loss_sum.item() / steps, score):
            self.best = {name: tensor.clone() for name, tensor in self.heads.state_dict().items()}
        for group in self.adam.param_groups:
            group["lr"] = self.history.plateau.learning_rate
        self.loss_sum.zero_()

    def finish(self) -> None:
        """Restore the weights of the best epoch and free what only training needs."""
        if self.best is not None:
            self.heads.load_state_dict(self.best)
            self.best = self.heads.state_dict()
        self.heads.zero_grad(set_to_none=True)
        del self.adam

    def release(self) -> None:
        """Free everything but the history."""
        del self.heads
        self.best = None

    def _inputs(self, features: LayerFeatures) -> Tensor:
        layers = [features[int(source)] for source in self.spec.sources]
        return layers[0] if len(layers) == 1 else torch.stack(layers)


def training_bytes(shape: MaskHeadShape, stems: int) -> int:
    """Return the memory of a point in training, without activations."""
    with torch.device("meta"):
        head = build_mask_head(shape)
    return 4 * COPIES * stems * sum(parameter.numel() for parameter in head.parameters())
