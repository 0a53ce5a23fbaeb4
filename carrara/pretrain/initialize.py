"""The initial weights of a run: random ones, or those of another encoder and the heads of it that fit.

The encoder is copied whole, so all settings that shape its tensors must agree. What was loaded and what was drawn again
is printed, and kept in the log's first line, in `run.json` and on the model card.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from carrara.core.errors import StoreError, UsageError
from carrara.encoders import REGISTRY as ENCODERS
from carrara.encoders._base import Card, EncoderFamily
from carrara.encoders._frame_encoder import FrameEncoder
from carrara.encoders._hub.load import load
from carrara.formats.weights import hash_tensors, load_state_dict_strict
from carrara.pretrain.checkpoint import TRAINING, has_checkpoint
from carrara.pretrain.fit_targets import target_path
from carrara.pretrain.recipes._base import Recipe
from carrara.pretrain.run_file import RUN
from carrara.pretrain.targets._base import Target
from carrara.pretrain.targets.teacher import DERIVED_STATE
from carrara.pretrain.transferred_heads import TransferredHeads, heads_from_checkpoint, heads_from_run, read_run_file

if TYPE_CHECKING:
    from carrara.pretrain.objectives._masked_network import MaskedPrediction

# What the card of the initial encoder passes on.
INHERITED = {"license", "commercial_use", "trained_on"}


@dataclass(frozen=True)
class Initialization:
    """Where the initial weights come from.

    Attributes:
        record: as in `run.json`: `from`, `weights_sha256`, and of masked prediction `loaded_heads` (targets),
            `reinitialized` (targets and the reason), `card` (fields that the encoder's card inherits); empty for random
            weights.
        transferred: heads and targets that are taken over.
    """

    record: dict[str, Any] = field(default_factory=dict)
    transferred: TransferredHeads = field(default_factory=TransferredHeads)

    def summary(self) -> str:
        """Return one line on what was loaded and what was not; empty for random weights."""
        if not self.record:
            return ""
        if "loaded_heads" not in self.record:
            return f"started from {self.record['from']}"
        loaded = ", ".join(self.record["loaded_heads"]) or "none"
        reasons = ", ".join(f"{name} ({reason})" for name, reason in self.record["reinitialized"].items()) or "none"
        return f"started from {self.record['from']}: encoder loaded; heads loaded: {loaded}; re-initialized: {reasons}"


def former_record(folder: Path) -> dict[str, Any]:
    """Return where the weights of the run in a folder came from, as its `run.json` says."""
    record: dict[str, Any] = read_run_file(folder / RUN).get("initialization", {})
    return record


def load_encoder(spec: str, recipe: Recipe, encoder: FrameEncoder, folder: Path) -> Initialization:
    """Load the initial weights into the encoder, and return what else is taken over.

    Where the run has a checkpoint already, nothing is loaded, and `run.json` says where it started.

    Args:
        spec: anything that `carrara.load` takes, the folder of a former run, or an official file (fairseq's checkpoints
            have heads); empty for random weights.
        recipe: of the new run.
        encoder: of the new run, with random weights.
        folder: of the new run.

    Raises:
        UsageError: there is nothing of that name, or it is another network.
        WeightsError: its weights are not whole.
        StoreError: the former run's files cannot be read.
    """
    if not spec:
        return Initialization()
    path = Path(spec).expanduser()
    transferred = TransferredHeads()
    if has_checkpoint(folder / TRAINING):
        unknown: dict[str, Any] = {"loaded_heads": [], "reinitialized": {}, "card": {}}
        record = unknown | former_record(folder) | {"from": spec}
    else:
        card = _load_official_file(path, recipe, encoder) if path.is_file() else load_other_encoder(spec, encoder)
        if (path / RUN).is_file():
            transferred = heads_from_run(path, recipe)
        else:
            transferred = heads_from_checkpoint(spec, recipe, encoder.card.dim)
        record = {
            "from": spec,
            "weights_sha256": hash_tensors(encoder.state_dict()),
            "loaded_heads": list(transferred.heads),
            "reinitialized": transferred.reinitialized,
            "card": card.model_dump(mode="json", include=INHERITED),
        }
    inherited = record["card"] | {"trained_on": tuple(record["card"].get("trained_on", ()))}
    encoder.card = encoder.card.model_copy(update=inherited)
    return Initialization(record, transferred)


def load_start(spec: str, encoder: Any, folder: Path) -> Initialization:
    """Load another encoder's weights, unless the run has a checkpoint already, and return where they come from.

    Args:
        spec: anything that `carrara.load` takes; empty for random weights.
        encoder: of the new run, with random weights.
        folder: of the new run.

    Raises:
        UsageError: there is nothing of that name, or it is another network.
        WeightsError: its weights are not whole.
    """
    if not spec:
        return Initialization()
    if has_checkpoint(folder / TRAINING):
        return Initialization(former_record(folder) | {"from": spec})
    load_other_encoder(spec, encoder)
    return Initialization({"from": spec, "weights_sha256": hash_tensors(encoder.state_dict())})


def copy_targets(initialization: Initialization, folder: Path) -> None:
    """Copy the fitted targets that are taken over into the new run's folder.

    Raises:
        StoreError: they cannot be written.
    """
    for name, source in initialization.transferred.target_files.items():
        path = target_path(folder, name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for suffix in (".json", ".safetensors"):
                shutil.copyfile(source.with_suffix(suffix), path.with_suffix(suffix))
        except OSError as problem:
            raise StoreError(f"{path}: cannot write here ({problem.strerror}); make room and start again") from None


@torch.no_grad()
def load_heads(initialization: Initialization, model: MaskedPrediction, targets: Mapping[str, Target]) -> None:
    """Load the heads into the model, and the averages of the former student into the targets."""
    transferred, final_dim, first = initialization.transferred, model.settings.final_dim, 0
    for name, label_sets in model.label_sets.items():
        for index, head in enumerate(transferred.heads.get(name, ()), first):
            if head.class_embeddings_CP is None:
                linear = model.logits[index] if label_sets else model.values[name]
                linear.load_state_dict({"weight": head.weight, "bias": head.bias})
                continue
            assert model.project is not None
            rows = slice(index * final_dim, (index + 1) * final_dim)
            model.project.weight[rows].copy_(head.weight)
            model.project.bias[rows].copy_(head.bias)
            # Special classes stand after the target's, and one of both may have none.
            count = min(len(model.classes[index]), len(head.class_embeddings_CP))
            model.classes[index][:count] = head.class_embeddings_CP[:count]
        first += len(label_sets)
    for name, tensors in transferred.ema_tensors.items():
        derived = {key: value for key, value in targets[name].state_dict().items() if key.startswith(DERIVED_STATE)}
        load_state_dict_strict(
            targets[name], {**derived, **tensors}, f"target {name} of {initialization.record['from']}"
        )


def _load_official_file(path: Path, recipe: Recipe, encoder: FrameEncoder) -> Card:
    """Load an official file's weights into the encoder, and return the card of the recipe's encoder."""
    family: EncoderFamily = ENCODERS.get(recipe.encoder)
    name = ENCODERS.get_entry(recipe.encoder).name
    if family.load_official is None:
        raise UsageError(f"--from {path}: no file of {name} is published; give a folder")
    tensors = _without_heads(family.load_official(name, path), encoder)
    load_state_dict_strict(encoder, tensors, str(path))
    return family.variants[name][0]


def load_other_encoder(spec: str, encoder: Any) -> Card:
    """Load another encoder's weights into the encoder, whose class may name `free_settings`, and return its card.

    Raises:
        UsageError: it is of another class or of other sizes.
    """
    other = load(spec)
    if type(other) is not type(encoder):
        raise UsageError(f"--from {spec}: is no network of the recipe's kind; `carrara show {spec}` describes it")
    ours, theirs = encoder.settings.model_dump(mode="json"), other.settings.model_dump(mode="json")
    free: frozenset[str] = getattr(encoder, "free_settings", frozenset())
    differing = [name for name in ours if name not in free and ours[name] != theirs[name]]
    if differing:
        listing = ", ".join(f"{name} is {theirs[name]} there and {ours[name]} here" for name in differing)
        cure = " ".join(f"--set network.{name}={json.dumps(theirs[name], separators=(',', ':'))}" for name in differing)
        raise UsageError(f"--from {spec}: is another network: {listing}; choose its recipe and scale, or {cure}")
    load_state_dict_strict(encoder, _without_heads(other.state_dict(), encoder), spec)
    return other.card


def _without_heads(tensors: Mapping[str, Tensor], encoder: Any) -> dict[str, Tensor]:
    """Return the tensors without those of heads that the encoder does not have."""
    heads: tuple[str, ...] = getattr(encoder, "head_names", ())
    own = encoder.state_dict()
    return {name: tensor for name, tensor in tensors.items() if name in own or not name.startswith(heads)}
