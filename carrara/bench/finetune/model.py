"""A copy of an encoder with a probe, trained together; which weights are trained, and at which learning rate.

The probe is the constrained track's: the learned softmax-weighted sum of all layers, one hidden layer, dropout. Its
input is the mean over a window's own frames, or every frame for tasks that are frame by frame.

Learning rates (layer-wise decay, as in ELECTRA [clark2020]): the probe has its own; layer i of L has the encoder's ×
decay^(L-i); whatever is outside the layers (front end, projection, positions, the final norm) has the encoder's ×
decay^L, the lowest. Adapters are new weights like the probe's, and have its rate. Weight decay applies to matrices and
kernels only.

Letters: B batch, T samples, F frames, L layers with row 0, D features, R rows of logits, K outputs, H hidden units.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from carrara.bench.finetune.lora import add_adapters
from carrara.bench.finetune.settings import FineTuneSettings
from carrara.bench.probes.probe import ProbeShape, ProbeSpec, initial_probe
from carrara.bench.probes.rng import dropout_mask
from carrara.core.errors import UsageError
from carrara.encoders._base import Encoder
from carrara.features.encode import encoder_autocast
from carrara.nn.conv.waveform_frontend import WaveformFrontend
from carrara.nn.recompute import forward_and_recompute

if TYPE_CHECKING:
    from carrara.bench.finetune.excerpts import ExcerptBatch

LAYER = "fine-tuned"
Loss = Callable[[Tensor, Tensor], Tensor]


class FineTunedEncoder(nn.Module):
    """A copy of the encoder, of which some weights are trained; a subclass adds what is trained on its features.

    Args:
        encoder: copied, not changed.
        settings: which weights are trained.
        seed: of the initial weights of adapters.

    Raises:
        UsageError: the encoder has no weights, or lacks what the settings need.
    """

    def __init__(self, encoder: Encoder, settings: FineTuneSettings, seed: int) -> None:
        super().__init__()
        card = encoder.card
        if not any(parameter.numel() for parameter in encoder.parameters()):
            raise UsageError(f"{card.name}: has no weights that could be trained; use --protocol constrained")
        self.encoder: Encoder = copy.deepcopy(encoder).cpu().float()
        self.encoder.requires_grad_(True)
        if settings.activation_checkpointing:
            layers = find_layers(self.encoder)
            if layers is None:
                raise UsageError(f"{card.name}: has no stack of layers; use --set activation_checkpointing=false")
            for layer in layers:
                layer.forward = partial(forward_and_recompute, layer, forward=layer.forward)
        if settings.mode == "lora":
            add_adapters(self.encoder, settings.lora_rank, settings.lora_alpha, seed)
        elif settings.freeze_front:
            for module in self.encoder.modules():
                if isinstance(module, WaveformFrontend):
                    module.requires_grad_(False)

    def batch_loss(self, batch: Any, loss: Loss, generator: np.random.Generator, device: str) -> tuple[Tensor, int]:
        """Return the mean loss of a batch and the number of rows that it is the mean of.

        Args:
            batch: of the training.
            loss: of the problem.
            generator: of the dropped units.
            device: of the model.
        """
        raise NotImplementedError

    def param_groups(self, settings: FineTuneSettings) -> list[dict[str, Any]]:
        """Return the trained weights as an optimiser's groups, each with its highest `rate` and its weight decay."""
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        depths = layer_depths(self.encoder)
        for name, parameter in self.named_parameters():
            if not parameter.requires_grad:
                continue
            rate = settings.learning_rate
            if name.startswith("encoder.") and ".lora_" not in name:
                depth = depths[name.removeprefix("encoder.")]
                rate = settings.encoder_learning_rate * settings.layer_decay ** (self.encoder.card.num_layers - depth)
            decay = settings.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
        return [
            {"params": parameters, "lr": rate, "rate": rate, "weight_decay": decay}
            for (rate, decay), parameters in groups.items()
        ]

    def trainable_state(self) -> dict[str, Tensor]:
        """Return by name all that training may change: trained weights and running statistics."""
        frozen = {name for name, parameter in self.named_parameters() if not parameter.requires_grad}
        return {name: tensor for name, tensor in self.state_dict().items() if name not in frozen}


class FineTuneModel(FineTunedEncoder):
    """A copy of the encoder, of which some weights are trained, and a probe.

    Args:
        encoder, settings: as in the base class.
        shape: of the probe; its `dim` and `num_summed` are the encoder's.
        frames: whether logits are frame by frame.
        seed: of the initial weights of probe and adapters.

    Raises:
        UsageError: as in the base class.
    """

    def __init__(
        self, encoder: Encoder, shape: ProbeShape, frames: bool, settings: FineTuneSettings, seed: int
    ) -> None:
        super().__init__(encoder, settings, seed)
        self.frames = frames
        self.head = initial_probe(ProbeSpec(LAYER, (), settings.learning_rate, seed), shape)

    def forward(self, samples_BT: Tensor, lengths_B: Tensor, mask_RH: Tensor | None = None) -> Tensor:
        """Return logits `[R, K]`: a row for each window, or for each of the windows' own frames.

        Args:
            samples_BT: float32 mono samples; zero after each window's end.
            lengths_B: samples of each window.
            mask_RH: which hidden units of the probe dropout keeps; None means all.
        """
        layers_BLFD = self.encoder(samples_BT, lengths_B, gradients=True)
        frames_B = [self.encoder.num_frames(length) for length in lengths_B.tolist()]
        with torch.autocast(samples_BT.device.type, enabled=False):
            layers_BLFD = layers_BLFD.float()
            if self.frames:
                x_LRD = torch.cat([layers_LFD[:, :count] for layers_LFD, count in zip(layers_BLFD, frames_B)], dim=1)
            else:
                counts_B = torch.tensor(frames_B, dtype=torch.float32, device=layers_BLFD.device)
                x_LRD = (layers_BLFD.sum(2) / counts_B[:, None, None]).transpose(0, 1)
            return self.probe(x_LRD, mask_RH)

    def probe(self, x_LRD: Tensor, mask_RH: Tensor | None = None) -> Tensor:
        """Return the probe's logits for rows, `[R, K]`; an encoder of a single row has no sum of layers."""
        return self.head(x_LRD if self.head.mix is not None else x_LRD[0], mask_RH)

    def batch_loss(
        self, batch: ExcerptBatch, loss: Loss, generator: np.random.Generator, device: str
    ) -> tuple[Tensor, int]:
        """Return the mean loss of windows, or of their frames; see the base class."""
        counts = [self.encoder.num_frames(length) if self.frames else 1 for length in batch.lengths_B.tolist()]
        mask_RH = dropout_mask(generator, sum(counts), len(self.head.inner_bias), self.head.dropout)
        with encoder_autocast(device):
            logits_RK = self(
                batch.samples_BT.to(device), batch.lengths_B.to(device), torch.from_numpy(mask_RH).to(device)
            )
        target_R = (
            np.asarray(batch.targets)
            if not self.frames
            else np.concatenate(
                # A window's last frames may lie beyond the known targets: NaN does not count.
                [
                    np.pad(target_FK[:count], ((0, max(count - len(target_FK), 0)), (0, 0)), constant_values=np.nan)
                    for target_FK, count in zip(batch.targets, counts)
                ]
            )
        )
        return loss(logits_RK[None], torch.as_tensor(target_R).to(device))[0], sum(counts)


def find_layers(encoder: Encoder) -> nn.ModuleList | nn.Sequential | None:
    """Return the list of the encoder's layers, the largest list with as many modules as its card says; or None."""
    lists = [
        (sum(parameter.numel() for parameter in module.parameters()), -index, module)
        for index, module in enumerate(encoder.modules())
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) == encoder.card.num_layers > 0
    ]
    return max(lists, key=lambda entry: entry[:2])[2] if lists else None


def layer_depths(encoder: Encoder) -> dict[str, int]:
    """Return by name the layer of each weight, 1 to L, or 0 outside the layers.

    All weights of an encoder without a list of layers have the depth of the last.
    """
    layers = find_layers(encoder)
    if layers is None:
        return dict.fromkeys((name for name, _ in encoder.named_parameters()), encoder.card.num_layers)
    depths = {id(parameter): depth for depth, layer in enumerate(layers, 1) for parameter in layer.parameters()}
    return {name: depths.get(id(parameter), 0) for name, parameter in encoder.named_parameters()}
