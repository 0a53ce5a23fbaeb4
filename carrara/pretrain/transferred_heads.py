"""Which heads of a former run or of an official checkpoint still mean in a new run what they meant.

A head is worth keeping where its classes are those of the new run: a former Carrara run's, if the target has the same
settings (what was fitted for it comes along too); EnCodec's books, a CQT's magnitudes and data2vec's regression from a
fairseq checkpoint, which alone of the official files has heads. Clusters that are fitted anew have other numbers, so
their heads are drawn anew as well.

fairseq's rows (pretraining.md 2.3): `final_proj` has a slice for each label set, `label_embs_concat` for each set four
special symbols and then its classes, in the order of its dictionary where that is kept. A teacher begins where the
former run's or fairseq's (`_ema`) stood, and as a copy of the student where there is none.

Letters: C classes, P final width, D width, R rows of a label set in fairseq's table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from carrara.core.errors import StoreError
from carrara.core.settings import parse_settings
from carrara.encoders._hub.official import heads
from carrara.encoders._hubert.fairseq import TEACHER, ours
from carrara.pretrain import checkpoint
from carrara.pretrain.fit_targets import target_path
from carrara.pretrain.recipes._base import Recipe
from carrara.pretrain.run_file import RUN
from carrara.pretrain.targets._base import TargetSettings
from carrara.pretrain.targets.codes import CodesSettings
from carrara.pretrain.targets.cqt import CQTSettings
from carrara.pretrain.targets.teacher import TeacherSettings

TRAINING = "training"
SPECIAL_SYMBOLS = 4
# How much and how often a target is asked for, not what its classes are.
ASKED = {"weight", "use", "whole_files"}


@dataclass(frozen=True)
class Head:
    """A linear map from the width, and where it leads to classes, their vectors `[C, P]`."""

    weight: Tensor
    bias: Tensor
    classes_CP: Tensor | None = None


@dataclass(frozen=True)
class Kept:
    """What comes along.

    Attributes:
        heads: by target, one a label set or one of values.
        renewed: why a target's heads must be drawn anew, by its name.
        fitted: files of targets, by name.
        moving: what a target that moves with the student was, by name.
    """

    heads: dict[str, list[Head]] = field(default_factory=dict)
    renewed: dict[str, str] = field(default_factory=dict)
    fitted: dict[str, Path] = field(default_factory=dict)
    moving: dict[str, dict[str, Tensor]] = field(default_factory=dict)


def former(folder: Path, recipe: Recipe) -> Kept:
    """Return what a former run's folder has for a recipe: heads of targets with the same settings, and the targets.

    Raises:
        UsageError: its recipe is not one that predicts what is masked.
        StoreError: its files cannot be read.
    """
    before = parse_settings(Recipe, read_json(folder / RUN).get("recipe") or {}, str(folder / RUN))
    found = checkpoint.load(folder / TRAINING)
    tensors = found.tensors if found else {}
    named = _named_heads(before, tensors)
    kept = Kept()
    for name, settings in recipe.targets.items():
        why = _differs(name, settings, before, recipe) if found else "there is no checkpoint of it"
        if not why and name not in named:
            why = "its head is not in the checkpoint"
        if not why and not target_path(folder, name).is_file():
            why = f"{target_path(folder, name)} is not there"
        if why:
            kept.renewed[name] = why
            continue
        kept.heads[name] = named[name]
        kept.fitted[name] = target_path(folder, name)
        prefix = f"moving.{name}."
        moved = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if moved:
            kept.moving[name] = moved
    return kept


def _differs(name: str, settings: TargetSettings, before: Recipe, recipe: Recipe) -> str:
    """Return why a target's head of a former run does not fit; empty where it does."""
    if name not in before.targets:
        return "no such target there"
    ours, theirs = settings.model_dump(exclude=ASKED), before.targets[name].model_dump(exclude=ASKED)
    off = [key for key in {**theirs, **ours} if ours.get(key) != theirs.get(key)]
    if off:
        return f"{off[0]} was {theirs.get(off[0])}, now {ours.get(off[0])}"
    width, former = recipe.objective.final_dim, before.objective.final_dim
    return "" if width == former or _sets(settings) == 0 else f"final_width was {former}, now {width}"


def _named_heads(recipe: Recipe, tensors: Mapping[str, Tensor]) -> dict[str, list[Head]]:
    """Return the heads in a checkpoint by target, as `MaskedPrediction` lays them out."""
    named: dict[str, list[Head]] = {}
    place, final = 0, recipe.objective.final_dim
    for name, settings in recipe.targets.items():
        value = f"model.values.{name}."
        if value + "weight" in tensors:
            named[name] = [Head(tensors[value + "weight"], tensors[value + "bias"])]
            continue
        for number in range(place, place + _sets(settings)):
            if f"model.classes.{number}" in tensors:
                rows = slice(number * final, (number + 1) * final)
                weight, bias = tensors["model.project.weight"][rows], tensors["model.project.bias"][rows]
                named.setdefault(name, []).append(Head(weight, bias, tensors[f"model.classes.{number}"]))
        place += _sets(settings)
    return named


def _sets(settings: TargetSettings) -> int:
    """Return how many label sets a target has; 0 where it gives values."""
    if isinstance(settings, CQTSettings | TeacherSettings):
        return 0
    return int(getattr(settings, "books", 1))


def official(spec: str, recipe: Recipe, width: int) -> Kept:
    """Return the heads of an official checkpoint that mean the same in a recipe whose encoder is so wide.

    Raises:
        WeightsError: a file that is not whole or not weights.
    """
    published = heads(spec)
    kept = Kept()
    for name, settings in recipe.targets.items():
        found = _published_head(settings, recipe, published, width)
        if isinstance(found, str):
            kept.renewed[name] = found
            continue
        kept.heads[name] = found
        average = _published_average(published) if isinstance(settings, TeacherSettings) else {}
        if average:
            kept.moving[name] = average
    return kept


def _published_average(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return fairseq's slow average of the Transformer by the names in a teacher; empty where none is kept."""
    inside = {name.partition(".")[2]: tensor for name, tensor in published.items() if name.startswith(f"{TEACHER}.")}
    return {f"average.{ours(f'encoder.{name}').partition('.')[2]}": tensor for name, tensor in inside.items()}


def _published_head(
    settings: TargetSettings, recipe: Recipe, published: Mapping[str, Tensor], width: int
) -> list[Head] | str:
    """Return a target's heads from fairseq's tensors, or why there are none for it."""
    if not published:
        return "no heads are published with it"
    if isinstance(settings, CodesSettings) and settings.source == "encodec":
        return _published_books(settings, recipe, published, width)
    if isinstance(settings, CQTSettings):
        stem, shape = "encoder_cqt_model.fc", (settings.bins, width)
        if settings.form != "magnitude":
            return f"published for the form magnitude, not {settings.form}"
    elif isinstance(settings, TeacherSettings):
        stem, shape = "final_proj", (width, width)
    else:
        return "its classes are numbered anew by every fit"
    weight, bias = published.get(f"{stem}.weight"), published.get(f"{stem}.bias")
    if weight is None or bias is None or tuple(weight.shape) != shape:
        return f"no head of {shape[0]} values is published with it"
    return [Head(weight.float(), bias.float())]


def _published_books(
    settings: CodesSettings, recipe: Recipe, published: Mapping[str, Tensor], width: int
) -> list[Head] | str:
    weight, bias = published.get("final_proj.weight"), published.get("final_proj.bias")
    rows_RP = published.get("label_embs_concat")
    books, final = settings.num_codebooks, recipe.objective.final_dim
    if weight is None or bias is None or rows_RP is None:
        return "no head for label sets is published with it"
    in_order = torch.arange(-SPECIAL_SYMBOLS, settings.codebook_size)
    codes = [published.get(f"dictionaries.{book}", in_order) for book in range(books)]
    shapes = tuple(weight.shape), tuple(rows_RP.shape)
    wanted = (books * final, width), (sum(map(len, codes)), final)
    if shapes != wanted or any(
        set(codes_R[codes_R >= 0].tolist()) != {*range(settings.codebook_size)} for codes_R in codes
    ):
        return f"its label sets are others: maps and classes of {shapes}, not {wanted}"
    return [
        Head(weight_PD.float(), bias_P.float(), one_RP.float()[_order(codes_R)])
        for weight_PD, bias_P, one_RP, codes_R in zip(
            weight.chunk(books), bias.chunk(books), rows_RP.split([len(codes_R) for codes_R in codes]), codes
        )
    ]


def _order(codes_R: Tensor) -> Tensor:
    """Return the row of each class, `[C]`; rows of special symbols say a number below 0."""
    return codes_R.argsort()[int((codes_R < 0).sum()) :]


def read_json(path: Path) -> dict[str, Any]:
    """Return an object from a JSON file; an empty one where there is no file.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as problem:
        raise StoreError(f"{path}: cannot be read ({problem}); choose another folder") from None
    return found if isinstance(found, dict) else {}
