"""Where a run starts from: random weights, or those of another encoder, with whichever heads still fit (heads.py).

The encoder is copied whole, so whatever shapes its tensors must agree. What was taken and what was drawn anew is told
on standard error, in the journal's first line, in `run.json` and on the card.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from carrara.core.errors import StoreError, UsageError
from carrara.encoders import REGISTRY as ENCODERS
from carrara.encoders._base import Card, EncoderFamily
from carrara.encoders._hub.load import load
from carrara.encoders._hubert.huggingface import FREE
from carrara.encoders._hubert.network import HubertEncoder
from carrara.formats.weights import load_strictly, tensors_identity
from carrara.pretrain import checkpoint
from carrara.pretrain.fit_targets import target_path
from carrara.pretrain.objective import MaskedPrediction
from carrara.pretrain.recipes._base import Recipe
from carrara.pretrain.run_file import RUN
from carrara.pretrain.targets._base import Target
from carrara.pretrain.targets.teacher import FOLLOWING
from carrara.pretrain.transferred_heads import TRAINING, Kept, former, official, read_json

FACTS = {"license", "commercial_use", "trained_on"}


@dataclass(frozen=True)
class Start:
    """What a run starts from.

    Attributes:
        record: what run.json keeps: `from`, `weights` (their identity), `taken` and `renewed` (targets, the latter each
            with the reason), `card` (what the encoder's card takes over); empty for random weights.
        kept: heads and targets that come along.
    """

    record: dict[str, Any]
    kept: Kept = field(default_factory=Kept)

    def told(self) -> str:
        """Return the line that says what was taken and what was not; empty for random weights."""
        if not self.record:
            return ""
        taken = ", ".join(self.record["taken"]) or "none"
        renewed = ", ".join(f"{name} ({why})" for name, why in self.record["renewed"].items()) or "nothing"
        return f"started from {self.record['from']}: encoder taken; heads taken: {taken}; re-initialised: {renewed}"


def begin(spec: str, recipe: Recipe, encoder: HubertEncoder, folder: Path) -> Start:
    """Put the weights that `spec` names into the encoder, and return what else comes along.

    Where the run has a checkpoint already, that holds it all: nothing is read, and the start is what run.json says.

    Args:
        spec: anything that `carrara.load` takes, the folder of a former run, or a file as the encoder's authors publish
            it (fairseq's checkpoints have heads); empty: random weights.
        recipe: of the new run.
        encoder: of the new run, with random weights.
        folder: of the new run.

    Raises:
        UsageError: there is nothing of that name, or it is another network.
        WeightsError: its weights are not whole.
        StoreError: the former run's files cannot be read.
    """
    if not spec:
        return Start({})
    if checkpoint.stands(folder / TRAINING):
        record = {"taken": [], "renewed": {}, "card": {}, **read_json(folder / RUN).get("start", {}), "from": spec}
        return _described(encoder, Start(record))
    place = Path(spec).expanduser()
    card = _file_put(place, recipe, encoder) if place.is_file() else _encoder_put(spec, encoder)
    kept = former(place, recipe) if (place / RUN).is_file() else official(spec, recipe, encoder.settings.dim)
    record = {
        "from": spec,
        "weights": tensors_identity(encoder.state_dict()),
        "taken": list(kept.heads),
        "renewed": kept.renewed,
        "card": card.model_dump(mode="json", include=FACTS),
    }
    return _described(encoder, Start(record, kept))


def fetch(start: Start, folder: Path) -> None:
    """Copy the fitted targets that come along to where the new run looks for its own.

    Raises:
        StoreError: they cannot be written.
    """
    for name, source in start.kept.fitted.items():
        place = target_path(folder, name)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            for suffix in (".json", ".safetensors"):
                shutil.copyfile(source.with_suffix(suffix), place.with_suffix(suffix))
        except OSError as problem:
            raise StoreError(f"{place}: cannot write here ({problem.strerror}); make room and start again") from None


@torch.no_grad()
def put(start: Start, model: MaskedPrediction, targets: Mapping[str, Target]) -> None:
    """Put the heads into the model, and what moved with the former student into the targets."""
    place, width = 0, model.settings.final_dim
    for name, sets in model.sets.items():
        for number, head in enumerate(start.kept.heads.get(name, ())):
            if head.classes_CP is None:
                model.values[name].load_state_dict({"weight": head.weight, "bias": head.bias})
                continue
            assert model.project is not None
            rows = slice((place + number) * width, (place + number + 1) * width)
            model.project.weight[rows].copy_(head.weight)
            model.project.bias[rows].copy_(head.bias)
            model.classes[place + number].copy_(head.classes_CP)
        place += len(sets)
    for name, tensors in start.kept.moving.items():
        following = {key: value for key, value in targets[name].state_dict().items() if key.startswith(FOLLOWING)}
        load_strictly(targets[name], {**following, **tensors}, f"target {name} of {start.record['from']}")


def _described(encoder: HubertEncoder, start: Start) -> Start:
    """Let the encoder's card say what its weights bring along: licence, and what they heard before."""
    facts = start.record["card"]
    encoder.card = encoder.card.model_copy(update={**facts, "trained_on": tuple(facts.get("trained_on", ()))})
    return start


def _file_put(path: Path, recipe: Recipe, encoder: HubertEncoder) -> Card:
    """Put an official file's weights into the encoder, and return the card of the recipe's encoder."""
    family: EncoderFamily = ENCODERS.get(recipe.encoder)
    name = ENCODERS.entry(recipe.encoder).name
    if family.load_official is None:
        raise UsageError(f"--from {path}: no file of {name} is published; give a folder")
    load_strictly(encoder, family.load_official(name, path), str(path))
    return family.variants[name][0]


def _encoder_put(spec: str, encoder: HubertEncoder) -> Card:
    """Put another encoder's weights into the encoder, and return its card."""
    found = load(spec)
    if not isinstance(found, HubertEncoder):
        raise UsageError(f"--from {spec}: is no network of the recipe's kind; `carrara show {spec}` says what it is")
    ours, theirs = encoder.settings.model_dump(mode="json"), found.settings.model_dump(mode="json")
    off = [name for name in ours if name not in FREE and ours[name] != theirs[name]]
    if off:
        told = ", ".join(f"{name} is {theirs[name]} there and {ours[name]} here" for name in off)
        cure = " ".join(f"--set network.{name}={json.dumps(theirs[name], separators=(',', ':'))}" for name in off)
        raise UsageError(f"--from {spec}: is another network: {told}; choose its recipe and scale, or {cure}")
    load_strictly(encoder, found.state_dict(), spec)
    return found.card
