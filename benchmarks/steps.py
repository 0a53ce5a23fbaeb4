"""Training steps of ours and of Hugging Face's networks on equal shapes, for train.py and gpu.py.

Each objective is a module that maps a batch to its loss and holds the batch's random labels, so that no target is
computed and the same step trains any of them. With equal weights and no dropout, both losses of masked prediction are
equal.

Letters: B batch, T samples, F frames, M mel bands, D dim, S masked frames, Q codebooks, C classes, P projection.
"""

from __future__ import annotations

import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from transformers import ASTConfig, ASTForAudioClassification, HubertConfig, HubertModel

from carrara.encoders._frame_encoder import FrameGrid
from carrara.encoders._hub.load import build_encoder
from carrara.pretrain.masks import draw_masks
from carrara.pretrain.objectives._masked_network import MaskedPrediction
from carrara.pretrain.recipes._base import MaskingSettings, ObjectiveSettings
from carrara.pretrain.targets._base import Target, TargetSettings

MASKING = MaskingSettings(mask_prob=0.8, mask_length=5)
FINAL_DIM, TEMPERATURE, FEATURE_PENALTY = 64, 0.1, 10.0
MEL_BANDS = 96
Step = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class NetworkSize:
    """Sizes of a network; the defaults are those of a 95M HuBERT."""

    channels: int = 512
    dim: int = 768
    num_layers: int = 12
    num_heads: int = 12

    def settings(self) -> dict[str, int]:
        """Return the settings that our Transformers share."""
        heads, layers = self.num_heads, self.num_layers
        return {"dim": self.dim, "num_layers": layers, "num_heads": heads, "ffn_dim": 4 * self.dim}


@dataclass(frozen=True)
class MaskedBatch:
    """Masks `[B, F]` and labels `[B, F, Q]` of a batch of crops, and the number of classes of each codebook."""

    masked_BF: Tensor
    labels_BFQ: Tensor
    num_classes: tuple[int, ...]


def draw_masked_batch(batch: int, samples: int, num_classes: tuple[int, ...]) -> MaskedBatch:
    """Return masks and random labels of crops of that many samples."""
    frames = hubert_encoder(NetworkSize(16, 16, 1, 1)).num_frames(samples)
    masked_BF = draw_masks([(0, 0, item) for item in range(batch)], MASKING, frames)
    generator = torch.Generator().manual_seed(0)
    labels = [torch.randint(count, (batch, frames), generator=generator) for count in num_classes]
    return MaskedBatch(masked_BF, torch.stack(labels, -1), num_classes)


def hubert_encoder(size: NetworkSize, dropout: float = 0.1) -> Any:
    """Return our encoder with random weights, without LayerDrop, in training mode."""
    changes = {"layerdrop": 0.0, "dropout": dropout, "attention_dropout": dropout, "input_dropout": dropout}
    sizes = {"conv_channels": size.channels, **size.settings()}
    return build_encoder("mert-v1-95m", 0, {"standardise": False, **changes, **sizes})


def hubert_peer(size: NetworkSize, dropout: float = 0.1) -> HubertModel:
    """Return Hugging Face's network of the same sizes."""
    config = HubertConfig(
        conv_dim=(size.channels,) * 7,
        hidden_size=size.dim,
        num_hidden_layers=size.num_layers,
        num_attention_heads=size.num_heads,
        intermediate_size=4 * size.dim,
        layerdrop=0.0,
        hidden_dropout=dropout,
        attention_dropout=dropout,
        feat_proj_dropout=dropout,
        activation_dropout=0.0,
        mask_time_prob=0.65,  # above 0, so that it has a mask vector; the masked frames are given
    )
    return HubertModel._from_config(config, attn_implementation="sdpa")


class MaskedPredictionLoss(nn.Module):
    """Our masked prediction of a batch."""

    def __init__(self, size: NetworkSize, batch: MaskedBatch, dropout: float = 0.1) -> None:
        super().__init__()
        target = Target(TargetSettings(target="codes"), FrameGrid(24_000, 320, 200))
        target.num_classes = batch.num_classes
        settings = ObjectiveSettings(
            final_dim=FINAL_DIM, temperature=TEMPERATURE, feature_penalty=FEATURE_PENALTY, unmasked_weight=0.0
        )
        self.network = hubert_encoder(size, dropout)
        self.model = MaskedPrediction(self.network, {"codes": target}, settings, 0)
        self.num_masked = int(batch.masked_BF.sum())
        self.register_buffer("masked_BF", batch.masked_BF, persistent=False)
        self.register_buffer("labels_BFQ", batch.labels_BFQ, persistent=False)

    def forward(self, samples_BT: Tensor) -> Tensor:
        """Return the loss of crops."""
        losses = self.model(samples_BT, self.masked_BF, {"codes": self.labels_BFQ})
        return losses.loss({"frames": self.num_masked, "clips": len(samples_BT)})


class HubertLoss(nn.Module):
    """The same over HubertModel, as a tutorial would write it."""

    def __init__(self, size: NetworkSize, batch: MaskedBatch, dropout: float = 0.1) -> None:
        super().__init__()
        self.network = hubert_peer(size, dropout)
        self.network.feature_extractor.register_forward_hook(self._keep_features)
        self.project = nn.Linear(size.dim, FINAL_DIM * len(batch.num_classes))
        self.classes = nn.ParameterList([torch.rand(count, FINAL_DIM) for count in batch.num_classes])
        self.register_buffer("masked_BF", batch.masked_BF, persistent=False)
        self.register_buffer("labels_BFQ", batch.labels_BFQ, persistent=False)

    def _keep_features(self, module: nn.Module, inputs: tuple[Tensor, ...], features: Tensor) -> None:
        self.features = features

    def forward(self, samples_BT: Tensor) -> Tensor:
        """Return the loss of crops."""
        hidden_BFD = self.network(samples_BT, mask_time_indices=self.masked_BF).last_hidden_state
        projected = self.project(hidden_BFD[self.masked_BF]).chunk(len(self.classes), dim=-1)
        labels_SQ = self.labels_BFQ[self.masked_BF]
        loss = FEATURE_PENALTY * self.features.float().square().mean()
        for codebook, (projected_SP, classes_CP) in enumerate(zip(projected, self.classes)):
            logits_SC = functional.normalize(projected_SP, dim=-1) @ functional.normalize(classes_CP, dim=-1).T
            loss = loss + functional.cross_entropy(logits_SC / TEMPERATURE, labels_SQ[:, codebook])
        return loss


class TaggingLoss(nn.Module):
    """Our MAEST on log-mel frames, without patchout, under binary cross-entropy of random tags `[B, C]`."""

    def __init__(self, size: NetworkSize, frames: int, tags_BC: Tensor) -> None:
        super().__init__()
        changes = {"frames": frames, "classes": tags_BC.shape[1], "distillation_head": False}
        self.network: Any = build_encoder("maest-10s", 0, {**changes, **size.settings()})
        self.register_buffer("tags_BC", tags_BC, persistent=False)

    def forward(self, mel_BFM: Tensor) -> Tensor:
        """Return the loss of spectrograms."""
        logits_BC = self.network.logits(self.network.vit(mel_BFM)[-1])
        return functional.binary_cross_entropy_with_logits(logits_BC, self.tags_BC)


class AstLoss(nn.Module):
    """The same over ASTForAudioClassification."""

    def __init__(self, size: NetworkSize, frames: int, tags_BC: Tensor) -> None:
        super().__init__()
        config = ASTConfig(
            hidden_size=size.dim,
            num_hidden_layers=size.num_layers,
            num_attention_heads=size.num_heads,
            intermediate_size=4 * size.dim,
            num_mel_bins=MEL_BANDS,
            max_length=frames,
            num_labels=tags_BC.shape[1],
        )
        self.network = ASTForAudioClassification._from_config(config, attn_implementation="sdpa")
        self.register_buffer("tags_BC", tags_BC, persistent=False)

    def forward(self, mel_BFM: Tensor) -> Tensor:
        """Return the loss of spectrograms."""
        return functional.binary_cross_entropy_with_logits(self.network(mel_BFM).logits, self.tags_BC)


def make_step(objective: nn.Module, dtype: torch.dtype = torch.float32) -> Step:
    """Return a function that trains the objective on a batch once and returns the loss.

    Args:
        objective: a module that maps a batch to its loss, or DistributedDataParallel around one.
        dtype: of matrix products; below float32 under autocast.
    """
    parameters = list(objective.parameters())
    adam = torch.optim.AdamW(parameters, lr=5e-4, fused=True)

    def step(batch: Tensor) -> Tensor:
        objective.train()
        with torch.autocast(batch.device.type, dtype, enabled=dtype is not torch.float32):
            loss = objective(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 10.0)
        adam.step()
        adam.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def time_in_turn(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    device: torch.device,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Return the median seconds of each call, all called in turn in every round; `clock` may count CPU time instead."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(warm_up + rounds):
        for name, call in calls.items():
            synchronize(device)
            began = clock()
            call()
            synchronize(device)
            if number >= warm_up:
                seconds[name].append(clock() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def describe_run(device: torch.device) -> dict[str, Any]:
    """Return the command, the date, the device with its driver, and the versions, for the head of a JSON file."""
    head: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "driver": None,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "transformers": transformers.__version__,
        },
    }
    if device.type == "cuda":
        head["driver"] = _driver()
        head["memory_gb"] = round(torch.cuda.get_device_properties(device).total_memory / 1e9, 1)
    return head


def _driver() -> str | None:
    """Return the version of the GPU's driver; None if nvidia-smi does not say."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None


def _processor() -> str:
    """Return the name of the processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
