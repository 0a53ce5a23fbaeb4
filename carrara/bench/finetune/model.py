"""A copy of an encoder under a probe, to be trained together; which weights learn, and how fast each.

The probe is the constrained track's: the learned softmax-weighted sum of all rows, one hidden layer, dropout. It hears
a window's mean over its own frames, or every frame for answers given frame by frame.

Rates (layer-wise decay, as in ELECTRA, Clark et al. 2020): the probe learns at its own; layer i of L at the encoder's ×
decay^(L-i); whatever stands outside the layers (front end, projection, positions, the stack's norm) at the encoder's ×
decay^L, the lowest. Adapters are new weights as the probe is, and learn at its rate. Weight decay is on matrices and
kernels only.

Letters: B batch, T samples, F frames, L rows of layers, D width, R rows to answer, K outputs.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from carrara.bench.finetune.lora import adapt
from carrara.bench.finetune.settings import FinetuneSettings
from carrara.bench.probes.probe import ProbeShape, ProbeSpec, initial_probe
from carrara.core.errors import UsageError
from carrara.encoders._base import Encoder
from carrara.nn.conv.waveform_frontend import WaveformFrontend

LAYER = "fine-tuned"


class Tunable(nn.Module):
    """A copy of the encoder, of which some weights learn, and a probe.

    Args:
        encoder: is copied, and stays as it is.
        shape: of the probe; its width and the number of rows it adds are the encoder's.
        frames: whether the answer is given frame by frame.
        how: which weights learn.
        seed: of the probe's and the adapters' first weights.

    Raises:
        UsageError: the encoder has no weights, or what `how` asks for is not in it.
    """

    def __init__(self, encoder: Encoder, shape: ProbeShape, frames: bool, how: FinetuneSettings, seed: int) -> None:
        super().__init__()
        card = encoder.card
        if not any(parameter.numel() for parameter in encoder.parameters()):
            raise UsageError(f"{card.name}: has no weights that could be trained; use --protocol constrained")
        self.frames = frames
        self.encoder: Encoder = copy.deepcopy(encoder).cpu().float()
        self.head = initial_probe(ProbeSpec(LAYER, (), how.learning_rate, seed), shape)
        self.encoder.requires_grad_(True)
        if how.activation_checkpointing:
            recomputed(self.encoder)
        if how.mode == "lora":
            adapt(self.encoder, how.lora_rank, how.lora_alpha, seed)
        elif how.freeze_front:
            for module in self.encoder.modules():
                if isinstance(module, WaveformFrontend):
                    module.requires_grad_(False)

    def forward(self, samples_BT: Tensor, lengths_B: Tensor, kept_RH: Tensor | None = None) -> Tensor:
        """Return logits `[R, K]`: a row a window, or a row for each of the windows' own frames.

        Args:
            samples_BT: float32 mono samples; silence after each window's end.
            lengths_B: samples of each window.
            kept_RH: which hidden units of the probe dropout keeps; none: all.
        """
        layers_BLFD = self.encoder(samples_BT, lengths_B)
        frames_B = [self.encoder.num_frames(length) for length in lengths_B.tolist()]
        with torch.autocast(samples_BT.device.type, enabled=False):
            return self.answer(self.rows(layers_BLFD.float(), frames_B), kept_RH)

    def rows(self, layers_BLFD: Tensor, frames_B: list[int]) -> Tensor:
        """Return what the probe hears of features that are zero after each window's own frames, `[L, R, D]`."""
        if self.frames:
            return torch.cat([layers_LFD[:, :count] for layers_LFD, count in zip(layers_BLFD, frames_B)], dim=1)
        counts_B = torch.tensor(frames_B, dtype=torch.float32, device=layers_BLFD.device)
        return (layers_BLFD.sum(2) / counts_B[:, None, None]).transpose(0, 1)

    def answer(self, x_LRD: Tensor, kept_RH: Tensor | None = None) -> Tensor:
        """Return the probe's logits for rows, `[R, K]`; an encoder of one row has nothing to add up."""
        return self.head(x_LRD if self.head.mix is not None else x_LRD[0], kept_RH)

    def groups(self, how: FinetuneSettings) -> list[dict[str, Any]]:
        """Return the weights that learn as an optimiser's groups, each with its highest `rate` and its decay."""
        held: dict[tuple[float, float], list[nn.Parameter]] = {}
        depths = depths_of(self.encoder)
        for name, parameter in self.named_parameters():
            if not parameter.requires_grad:
                continue
            place = name.removeprefix("encoder.")
            rate = how.learning_rate
            if place != name and ".lora_" not in name:
                rate = how.encoder_learning_rate * how.layer_decay ** (self.encoder.card.num_layers - depths[place])
            decay = how.weight_decay if parameter.ndim > 1 else 0.0
            held.setdefault((rate, decay), []).append(parameter)
        return [
            {"params": parameters, "lr": rate, "rate": rate, "weight_decay": decay}
            for (rate, decay), parameters in held.items()
        ]

    def learned(self) -> dict[str, Tensor]:
        """Return all that training may change, by name: the weights that learn, and running statistics."""
        frozen = {name for name, parameter in self.named_parameters() if not parameter.requires_grad}
        return {name: tensor for name, tensor in self.state_dict().items() if name not in frozen}


def layers_of(encoder: Encoder) -> nn.ModuleList | nn.Sequential | None:
    """Return the stack of the encoder's layers: as many modules as its card says, the largest such list; or none."""
    stacks = [
        (sum(parameter.numel() for parameter in module.parameters()), -place, module)
        for place, module in enumerate(encoder.modules())
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) == encoder.card.num_layers > 0
    ]
    return max(stacks, key=lambda one: one[:2])[2] if stacks else None


def depths_of(encoder: Encoder) -> dict[str, int]:
    """Return for each weight by name its layer, 1 to L, or 0 where it stands outside the layers.

    An encoder without a stack of layers has all its weights at the depth of the last.
    """
    stack = layers_of(encoder)
    if stack is None:
        return dict.fromkeys((name for name, _ in encoder.named_parameters()), encoder.card.num_layers)
    depth = {id(parameter): place for place, layer in enumerate(stack, 1) for parameter in layer.parameters()}
    return {name: depth.get(id(parameter), 0) for name, parameter in encoder.named_parameters()}


def recomputed(encoder: Encoder) -> None:
    """Make each layer forget what is inside it and compute it again for the gradient; less memory, a third more time.

    Raises:
        UsageError: the encoder has no stack of layers.
    """
    stack = layers_of(encoder)
    if stack is None:
        raise UsageError(f"{encoder.card.name}: has no stack of layers; use --set checkpointing=false")
    for layer in stack:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
