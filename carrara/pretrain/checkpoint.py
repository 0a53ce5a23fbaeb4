"""Checkpoints: weights, optimiser moments and the state of a run in one safetensors file; the previous one is kept.

A file is whole or not there, and nothing in it can be executed. Every random draw depends on (seed, step) or
(seed, epoch, item), so no generator is saved.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from carrara.core.errors import CarraraError, StoreError
from carrara.core.hashing import canonical_json
from carrara.core.io import atomic_write, sweep_drafts
from carrara.core.strict_json import parse_json_object, read_json_object
from carrara.encoders._hub.load import WEIGHTS
from carrara.encoders._hub.spec import CONFIG
from carrara.formats.weights import hash_tensors, read_tensors
from carrara.pretrain.distributed import full_tensor, shard_like

# Folder of the checkpoints within the folder of a run.
TRAINING = "training"
LAST, PREVIOUS = "last.safetensors", "previous.safetensors"
# Of AdamW and of Muon.
MOMENTS, MOMENTUM = ("exp_avg", "exp_avg_sq", "step"), ("momentum_buffer",)


@dataclass(frozen=True)
class SavedState:
    """A checkpoint that was read.

    Attributes:
        tensors: weights (`model.NAME`), moments (`exp_avg.NAME` …) and averaged modules (`ema.MODULE.NAME`).
        state: plain values, for example the step.
        warning: why the newest file was not used; empty where it was.
    """

    tensors: dict[str, Tensor]
    state: dict[str, Any]
    warning: str = ""


def collect_tensors(
    model: nn.Module, optimiser: torch.optim.Optimizer, ema_modules: Mapping[str, nn.Module] | None = None
) -> dict[str, Tensor]:
    """Return all tensors of a checkpoint on the CPU; where weights are sharded, all ranks must call this.

    Args:
        model: the trained model.
        optimiser: the optimiser of its parameters.
        ema_modules: modules that are averages of the model's weights, by name.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for moment, tensor in optimiser.state[parameter].items():
            tensors[f"{moment}.{name}"] = tensor
    for module_name, module in (ema_modules or {}).items():
        tensors |= {f"ema.{module_name}.{name}": tensor for name, tensor in module.state_dict().items()}
    return {name: full_tensor(tensor.detach()).cpu().contiguous() for name, tensor in tensors.items()}


def write_checkpoint(folder: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write a checkpoint; the former one becomes the previous one.

    Raises:
        StoreError: it cannot be written, for example because the disk is full; the former ones stay as they are.
    """
    with atomic_write(folder / LAST) as tmp:
        try:
            save_file(dict(tensors), tmp, metadata={"state": canonical_json(dict(state))})
        except SafetensorError as problem:
            raise StoreError(
                f"{folder / LAST}: cannot write here ({problem}); make room and go on with --resume"
            ) from None
        with open(tmp, "rb") as file:
            os.fsync(file.fileno())
        # One that was cut short must not replace the previous one, which may be the only whole one.
        if _is_whole(folder / LAST):
            (folder / LAST).replace(folder / PREVIOUS)


def _is_whole(path: Path) -> bool:
    try:
        with safe_open(path, "pt"):
            return True
    except (SafetensorError, OSError):
        return False


def without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names have a prefix, by the names without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def holds_weights(folder: Path, weights: Mapping[str, Tensor]) -> bool:
    """Return whether the encoder or codec in a folder is whole and has these weights, also by its card."""
    try:
        config = read_json_object(folder / CONFIG)
        digest = hash_tensors(weights)
        stated = config.get("card", {}).get("weights_sha256", digest)
        return stated == digest == hash_tensors(read_tensors(folder / WEIGHTS))
    except (OSError, ValueError, AttributeError, CarraraError):
        return False


def has_checkpoint(folder: Path) -> bool:
    """Return whether a folder has a checkpoint, readable or not."""
    return any((folder / name).exists() for name in (LAST, PREVIOUS))


def load_checkpoint(folder: Path) -> SavedState | None:
    """Return the newest checkpoint that can be read, or None where there is no file.

    What a killed process left of one that it was writing is removed.

    Raises:
        StoreError: there are checkpoints, and none can be read.
    """
    sweep_drafts(folder)
    broken = []
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            with safe_open(path, "pt") as file:
                state = parse_json_object((file.metadata() or {})["state"], allow_nan=True)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        except (SafetensorError, OSError, KeyError, ValueError) as problem:
            broken.append(f"{path.name} ({problem})")
            continue
        warning = f"{broken[0]} is not whole; going on from {path.name}, step {state['step']}" if broken else ""
        return SavedState(tensors, state, warning)
    if broken:
        raise StoreError(f"{folder}: no whole checkpoint: {', '.join(broken)}; remove the folder to start anew")
    return None


def restore_checkpoint(
    checkpoint: SavedState,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    ema_modules: Mapping[str, nn.Module] | None = None,
) -> None:
    """Load weights and moments into the model and optimiser, on their devices and sharded as they are.

    Raises:
        StoreError: the tensors belong to another network.
    """
    tensors = checkpoint.tensors
    modules = {"model.": model, **{f"ema.{name}.": module for name, module in (ema_modules or {}).items()}}
    for prefix, module in modules.items():
        current = module.state_dict()
        saved = {name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)}
        try:
            module.load_state_dict(
                {name: shard_like(value, current[name]) if name in current else value for name, value in saved.items()}
            )
        except RuntimeError as problem:
            reason = " ".join(str(problem).split())[:200]
            raise StoreError(
                f"the checkpoint is of another network ({reason}); choose another folder with -o"
            ) from None
    optimiser.state.clear()
    has_momentum = {
        parameter for group in optimiser.param_groups if "momentum" in group for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        for moment in MOMENTUM if parameter in has_momentum else MOMENTS:
            tensor = tensors.get(f"{moment}.{name}")
            if tensor is None:
                continue
            # The optimiser's step count stays on the CPU unless it is a fused one on a GPU.
            if moment != "step":
                tensor = shard_like(tensor, parameter)
            elif parameter.is_cuda:
                tensor = tensor.to(parameter.device)
            optimiser.state[parameter][moment] = tensor
