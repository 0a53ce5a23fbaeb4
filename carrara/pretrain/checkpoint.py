"""All that a run needs to go on exactly, in one file that is whole or not there; the one before it is kept.

Weights, the optimiser's moments, and a state of plain values (step, seconds, recipe, corpus) as safetensors: nothing in
it can run. Random draws are made from (seed, step) or (seed, epoch, item), so there is no generator to be saved.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from carrara.core.errors import StoreError
from carrara.core.hashing import canonical_json
from carrara.core.io import atomic_write
from carrara.pretrain.fsdp import divided
from carrara.pretrain.fsdp import whole as whole_tensor

LAST, PREVIOUS = "last.safetensors", "previous.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True)
class Checkpoint:
    """What was read: tensors by name, the state, and a note where the newest file could not be used."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]
    note: str = ""


def save(folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Write a checkpoint of a model alone; see `gather` and `write`."""
    write(folder, gather(model, optimiser, {}), state)


def gather(model: nn.Module, optimiser: torch.optim.Optimizer, moving: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return all that a checkpoint holds, on the CPU; where weights are divided, all ranks must ask for it.

    Args:
        model: what is trained.
        optimiser: whose moments are held.
        moving: what else changes in training, by name.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for moment, tensor in optimiser.state[parameter].items():
            tensors[f"{moment}.{name}"] = tensor
    for module, other in moving.items():
        tensors |= {f"moving.{module}.{name}": tensor for name, tensor in other.state_dict().items()}
    return {name: whole_tensor(tensor.detach()).cpu().contiguous() for name, tensor in tensors.items()}


def write(folder: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write a checkpoint; the one there becomes the previous one.

    Raises:
        StoreError: it cannot be written, for example because the disk is full; the former ones stay as they are.
    """
    with atomic_write(folder / LAST) as draft:
        try:
            save_file(dict(tensors), draft, metadata={"state": canonical_json(dict(state))})
        except SafetensorError as problem:
            raise StoreError(f"{folder / LAST}: cannot write here ({problem}); make room and resume") from None
        with open(draft, "rb") as file:
            os.fsync(file.fileno())
        if (folder / LAST).exists():
            (folder / LAST).replace(folder / PREVIOUS)


def stands(folder: Path) -> bool:
    """Return whether there is a checkpoint, whole or not."""
    return any((folder / name).exists() for name in (LAST, PREVIOUS))


def load(folder: Path) -> Checkpoint | None:
    """Return the newest whole checkpoint, or none where there never was one.

    Raises:
        StoreError: there are checkpoints, and none is whole.
    """
    broken = []
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            with safe_open(path, "pt") as file:
                state = json.loads((file.metadata() or {})["state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        except (SafetensorError, OSError, KeyError, ValueError) as problem:
            broken.append(f"{path.name} ({problem})")
            continue
        note = f"{broken[0]} is not whole; going on from {path.name}, step {state['step']}" if broken else ""
        return Checkpoint(tensors, state, note)
    if broken:
        raise StoreError(f"{folder}: no whole checkpoint: {', '.join(broken)}; remove the folder to start anew")
    return None


def restore(
    checkpoint: Checkpoint,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    moving: Mapping[str, nn.Module] | None = None,
) -> None:
    """Put weights and moments back, on the devices where the model is, and divided as it is.

    Raises:
        StoreError: the tensors are of another network.
    """
    tensors = checkpoint.tensors
    for prefix, module in {
        "model.": model,
        **{f"moving.{name}.": each for name, each in (moving or {}).items()},
    }.items():
        wanted = module.state_dict()
        given = {name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)}
        try:
            module.load_state_dict(
                {name: divided(value, wanted[name]) if name in wanted else value for name, value in given.items()}
            )
        except RuntimeError as problem:
            reason = " ".join(str(problem).split())[:200]
            raise StoreError(f"the checkpoint is of another network ({reason}); choose another output folder") from None
    optimiser.state.clear()
    for name, parameter in model.named_parameters():
        moments = {moment: tensors[f"{moment}.{name}"] for moment in MOMENTS if f"{moment}.{name}" in tensors}
        if moments:
            # The count of steps stays on the CPU unless the optimiser is a fused one on a GPU.
            optimiser.state[parameter] = {
                moment: _placed(moment, tensor, parameter) for moment, tensor in moments.items()
            }


def _placed(moment: str, tensor: Tensor, parameter: Tensor) -> Tensor:
    if moment != "step":
        return divided(tensor, parameter)
    return tensor.to(parameter.device) if parameter.is_cuda else tensor
