"""Which prediction heads of a former run or of an official checkpoint still fit the targets of a new run.

A head fits where its classes mean the same: those of a former run if the target has the same settings (the fitted
target is copied too); EnCodec's codebooks, a CQT's magnitudes and data2vec's regression from a fairseq checkpoint, the
only official files with heads. Clusters that are fitted again get other numbers, so their heads are drawn again.

In fairseq `final_proj` has a slice for each label set, and `label_embs_concat` has for each set four special symbols
and then its classes, in the order of its dictionary where that is saved [notes/pretraining §2.3]. A teacher starts from
the former run's or fairseq's (`_ema`), and as a copy of the student where there is none.

Letters: C classes, P projection, D dim, R rows of a label set in fairseq's table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from carrara.core.errors import StoreError
from carrara.core.settings import parse_settings
from carrara.core.strict_json import read_json
from carrara.encoders._hub.official import read_heads
from carrara.encoders._hubert.fairseq import TEACHER, map_fairseq_name
from carrara.pretrain.checkpoint import TRAINING, load_checkpoint
from carrara.pretrain.fit_targets import target_path
from carrara.pretrain.recipes._base import Recipe
from carrara.pretrain.run_file import RUN
from carrara.pretrain.targets._base import TargetSettings
from carrara.pretrain.targets.codes import CodesSettings
from carrara.pretrain.targets.cqt import CQTSettings
from carrara.pretrain.targets.teacher import TeacherSettings

SPECIAL_SYMBOLS = 4
# Settings that do not change what a target's classes are.
FREE_TARGET_SETTINGS = {"weight", "use", "whole_files"}


@dataclass(frozen=True)
class LinearHead:
    """A linear map, and the class embeddings `[C, P]` if it predicts classes."""

    weight: Tensor
    bias: Tensor
    class_embeddings_CP: Tensor | None = None


@dataclass(frozen=True)
class TransferredHeads:
    """What a new run takes over besides the encoder.

    Attributes:
        heads: by target, one head for each label set, or one of values.
        reinitialized: by target, why its heads are drawn again.
        target_files: files of fitted targets, by target.
        ema_tensors: state of targets that average the student, by target.
    """

    heads: dict[str, list[LinearHead]] = field(default_factory=dict)
    reinitialized: dict[str, str] = field(default_factory=dict)
    target_files: dict[str, Path] = field(default_factory=dict)
    ema_tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)


def heads_from_run(folder: Path, recipe: Recipe) -> TransferredHeads:
    """Return the heads and targets of a former run that fit a recipe.

    Raises:
        UsageError: its recipe has settings that there are no more.
        StoreError: its files cannot be read.
    """
    values = read_run_file(folder / RUN).get("recipe") or {}
    if "targets" not in values:  # a tagger's, whose heads are for tags
        return TransferredHeads(reinitialized=dict.fromkeys(recipe.targets, "no such target there"))
    former = parse_settings(Recipe, values, str(folder / RUN))
    checkpoint = load_checkpoint(folder / TRAINING)
    tensors = checkpoint.tensors if checkpoint else {}
    former_heads = _heads_by_target(former, tensors)
    transferred = TransferredHeads()
    for name, settings in recipe.targets.items():
        reason = _difference(name, settings, former, recipe) if checkpoint else "there is no checkpoint of it"
        if not reason and name not in former_heads:
            reason = "its head is not in the checkpoint"
        if not reason and not target_path(folder, name).is_file():
            reason = f"{target_path(folder, name)} is not there"
        if reason:
            transferred.reinitialized[name] = reason
            continue
        transferred.heads[name] = former_heads[name]
        transferred.target_files[name] = target_path(folder, name)
        prefix = f"ema.{name}."
        ema = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if ema:
            transferred.ema_tensors[name] = ema
    return transferred


def _difference(name: str, settings: TargetSettings, former: Recipe, recipe: Recipe) -> str:
    """Return why a former target's head does not fit; empty where it does."""
    if name not in former.targets:
        return "no such target there"
    new = settings.model_dump(exclude=FREE_TARGET_SETTINGS)
    old = former.targets[name].model_dump(exclude=FREE_TARGET_SETTINGS)
    for key in {**old, **new}:
        if new.get(key) != old.get(key):
            return f"{key} was {old.get(key)}, now {new.get(key)}"
    for key in ("head", "final_dim") if _count_label_sets(settings) else ():
        new_value, old_value = getattr(recipe.objective, key), getattr(former.objective, key)
        if new_value != old_value:
            return f"{key} was {old_value}, now {new_value}"
    return ""


def _heads_by_target(recipe: Recipe, tensors: Mapping[str, Tensor]) -> dict[str, list[LinearHead]]:
    """Return the heads in a checkpoint by target, as `MaskedPrediction` orders them."""
    heads: dict[str, list[LinearHead]] = {}
    first, final_dim = 0, recipe.objective.final_dim
    for name, settings in recipe.targets.items():
        values = f"model.values.{name}."
        if values + "weight" in tensors:
            heads[name] = [LinearHead(tensors[values + "weight"], tensors[values + "bias"])]
            continue
        end = first + _count_label_sets(settings)
        for index in range(first, end):
            if f"model.logits.{index}.weight" in tensors:
                weight, bias = (tensors[f"model.logits.{index}.{part}"] for part in ("weight", "bias"))
                heads.setdefault(name, []).append(LinearHead(weight, bias))
            elif f"model.classes.{index}" in tensors:
                rows = slice(index * final_dim, (index + 1) * final_dim)
                weight, bias = tensors["model.project.weight"][rows], tensors["model.project.bias"][rows]
                heads.setdefault(name, []).append(LinearHead(weight, bias, tensors[f"model.classes.{index}"]))
        first = end
    return heads


def _count_label_sets(settings: TargetSettings) -> int:
    """Return the number of label sets of a target; 0 where it has values."""
    if isinstance(settings, CQTSettings | TeacherSettings):
        return 0
    return int(getattr(settings, "num_codebooks", 1))


def heads_from_checkpoint(spec: str, recipe: Recipe, dim: int) -> TransferredHeads:
    """Return the heads of an official checkpoint that fit a recipe.

    Args:
        spec: an official file, its folder, or the name of an imported encoder.
        recipe: the new recipe.
        dim: the encoder's.

    Raises:
        WeightsError: a file that is not whole or not weights.
    """
    published = read_heads(spec)
    transferred = TransferredHeads()
    for name, settings in recipe.targets.items():
        heads = _published_heads(settings, recipe, published, dim)
        if isinstance(heads, str):
            transferred.reinitialized[name] = heads
            continue
        transferred.heads[name] = heads
        prefix = f"{TEACHER}."
        if isinstance(settings, TeacherSettings) and any(key.startswith(prefix) for key in published):
            # Names within fairseq's Transformer, which is `encoder` of the network and `average` of the teacher.
            transferred.ema_tensors[name] = {
                "average." + map_fairseq_name("encoder." + key.removeprefix(prefix)).removeprefix("encoder."): tensor
                for key, tensor in published.items()
                if key.startswith(prefix)
            }
    return transferred


def _published_heads(
    settings: TargetSettings, recipe: Recipe, published: Mapping[str, Tensor], dim: int
) -> list[LinearHead] | str:
    """Return a target's heads from fairseq's tensors, or why none fits."""
    if not published:
        return "no heads are published with it"
    if isinstance(settings, CodesSettings) and settings.source == "encodec":
        return _published_codebooks(settings, recipe, published, dim)
    if isinstance(settings, CQTSettings):
        stem, shape = "encoder_cqt_model.fc", (settings.bins, dim)
        if settings.form != "magnitude":
            return f"published for the form magnitude, not {settings.form}"
    elif isinstance(settings, TeacherSettings):
        stem, shape = "final_proj", (dim, dim)
    else:
        return "its classes are numbered anew by every fit"
    weight, bias = published.get(f"{stem}.weight"), published.get(f"{stem}.bias")
    if weight is None or bias is None or tuple(weight.shape) != shape:
        return f"no head of {shape[0]} values is published with it"
    return [LinearHead(weight.float(), bias.float())]


def _published_codebooks(
    settings: CodesSettings, recipe: Recipe, published: Mapping[str, Tensor], dim: int
) -> list[LinearHead] | str:
    weight, bias = published.get("final_proj.weight"), published.get("final_proj.bias")
    table_RP = published.get("label_embs_concat")
    if recipe.objective.head != "cosine":
        return f"published for the head cosine, not {recipe.objective.head}"
    count, size, final_dim = settings.num_codebooks, settings.codebook_size, recipe.objective.final_dim
    if weight is None or bias is None or table_RP is None:
        return "no head for label sets is published with it"
    # The code of each row of a label set, below 0 for special symbols.
    in_order_R = torch.arange(-SPECIAL_SYMBOLS, size)
    codes = [published.get(f"dictionaries.{index}", in_order_R) for index in range(count)]
    shapes = tuple(weight.shape), tuple(table_RP.shape)
    expected = (count * final_dim, dim), (sum(map(len, codes)), final_dim)
    if shapes != expected or any(set(codes_R[codes_R >= 0].tolist()) != {*range(size)} for codes_R in codes):
        return f"its label sets are others: maps and classes of {shapes}, not {expected}"
    tables = table_RP.split([len(codes_R) for codes_R in codes])
    # Special symbols sort first; here they come after the codes.
    orders = [codes_R.argsort(stable=True).roll(-int((codes_R < 0).sum())) for codes_R in codes]
    return [
        LinearHead(weight_PD.float(), bias_P.float(), embeddings_RP.float()[order_R])
        for weight_PD, bias_P, embeddings_RP, order_R in zip(weight.chunk(count), bias.chunk(count), tables, orders)
    ]


def read_run_file(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, empty where there is no file.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        content = read_json(path, allow_nan=True)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as problem:
        raise StoreError(f"{path}: cannot be read ({problem}); choose another with --from FOLDER") from None
    return content if isinstance(content, dict) else {}
