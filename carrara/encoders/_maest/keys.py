"""MAEST's weights under all their names: GitHub's files, Lightning checkpoints, Hugging Face's AST, and ours.

Ours are GitHub's with `vit.` before whatever is no head. A Lightning checkpoint has `net.` before them, and `net_swa.`
before the averaged weights, which are taken where they are there. Hugging Face splits queries, keys and values, adds
the two tables of positions up, leaves the second head out, and renamed the parts of a layer in transformers 5; both
spellings are read and the older one is written, which both versions load.

Letters: R rows, C columns of patches, D width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from carrara.core.errors import WeightsError
from carrara.formats.safe_pickle import read_checkpoint
from carrara.formats.weights import read_tensors
from carrara.nn.transformer.vit import EXTRA, VitShape

HEADS = ("head.", "head_dist.")
TRUNK = (
    "cls_token", "dist_token", "new_pos_embed", "freq_new_pos_embed", "time_new_pos_embed", "patch_embed.", "blocks.",
    "norm.",
)  # fmt: skip
# The front end's window and filter bank, which the authors' later code stores beside the weights.
CONSTANTS = {"melspectrogram.spec.window": (512,), "melspectrogram.mel_scale.fb": (257, 96)}
AVERAGED, TRAINED = "net_swa.", "net."
FREQUENCY, TIME, FIRST_TWO = "vit.freq_new_pos_embed", "vit.time_new_pos_embed", "vit.new_pos_embed"
HUB = "audio_spectrogram_transformer."
HUB_POSITIONS = "embeddings.position_embeddings"
OUTSIDE = {
    "embeddings.cls_token": "vit.cls_token",
    "embeddings.distillation_token": "vit.dist_token",
    "embeddings.patch_embeddings.projection": "vit.patch_embed.proj",
    "layernorm": "vit.norm",
    "classifier.layernorm": "head.0",
    "classifier.dense": "head.1",
}
INSIDE = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "attention.attention.query": "attn.q",
    "attention.attention.key": "attn.k",
    "attention.attention.value": "attn.v",
}
RENAMED = {
    "attention.o_proj": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "attention.q_proj": "attn.q",
    "attention.k_proj": "attn.k",
    "attention.v_proj": "attn.v",
}
HUB_LAYER = re.compile(r"^(?:encoder\.layer|layers)\.(\d+)\.(.+)$")
LARGEST_REST = 1e-3  # of a grid of positions that is a sum of two tables, stored in half precision at worst


def read_published(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a `.ckpt`, flat or by Lightning, or of the one that a folder holds, by its own names.

    Raises:
        WeightsError: not one, or not weights.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted(path.glob("*.ckpt"))
        if not found and (path / "config.json").is_file():
            raise WeightsError(
                f"{path}: holds no .ckpt but a config.json; such a folder needs no import, give it as it is: "
                f"`carrara bench {path}`, or carrara.load({str(path)!r}) in Python"
            )
        if len(found) != 1:
            raise WeightsError(f"{path}: holds {len(found)} .ckpt files; name one")
        path = found[0]
    content = read_tensors(path) if path.suffix == ".safetensors" else read_checkpoint(path)
    table = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    if not table or not all(isinstance(tensor, Tensor) for tensor in table.values()):
        raise WeightsError(f"{path}: holds no table of tensors, so it is no MAEST")
    return dict(table)


def native(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of GitHub's files and of Lightning checkpoints by our names, in single precision.

    The front end's constants are left out; names that no part of the network has stay as they are in the file.
    """
    prefix = next((start for start in (AVERAGED, TRAINED) if any(name.startswith(start) for name in tensors)), "")
    other = TRAINED if prefix == AVERAGED else None
    ours = {}
    for full, tensor in tensors.items():
        name = full.removeprefix(prefix)
        if (other and full.startswith(other)) or tuple(tensor.shape) == CONSTANTS.get(name):
            continue
        ours[f"vit.{name}" if name.startswith(TRUNK) else name if name.startswith(HEADS) else full] = tensor.float()
    return ours


def from_hub(tensors: Mapping[str, Tensor], rows: int, source: str) -> dict[str, Tensor]:
    """Return the tensors of Hugging Face's AST by our names, in single precision; unknown names stay as they are.

    Raises:
        WeightsError: positions that are no sum of a table of rows and one of columns.
    """
    inside = INSIDE | RENAMED
    ours: dict[str, Tensor] = {}
    for full, tensor in tensors.items():
        name, tensor = full.removeprefix(HUB), tensor.float()
        stem, dot, kind = name.rpartition(".")
        layer = HUB_LAYER.match(stem)
        if name == HUB_POSITIONS:
            ours |= split_positions(tensor, rows, source)
        elif name in OUTSIDE:
            ours[OUTSIDE[name]] = tensor
        elif stem in OUTSIDE:
            ours[OUTSIDE[stem] + dot + kind] = tensor
        elif layer and layer[2] in inside:
            ours[f"vit.blocks.{layer[1]}.{inside[layer[2]]}.{kind}"] = tensor
        else:
            ours[full] = tensor
    for name in [name for name in ours if ".attn.q." in name]:
        parts = [name.replace(".attn.q.", f".attn.{part}.") for part in "qkv"]
        if all(part in ours for part in parts):
            ours[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat([ours.pop(part) for part in parts])
    return ours


def to_hub(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return our tensors by the names of Hugging Face's AST (those of transformers 4); the second head is left out."""
    grid_1DRC = ours[FREQUENCY] + ours[TIME]
    theirs = {HUB + HUB_POSITIONS: torch.cat([ours[FIRST_TWO], grid_1DRC.flatten(2).mT], 1)}
    outside = {our: their for their, our in OUTSIDE.items()}
    inside = {our: their for their, our in INSIDE.items()}
    for name, tensor in ours.items():
        stem, _, kind = name.rpartition(".")
        if name in (FREQUENCY, TIME, FIRST_TWO) or name.startswith("head_dist."):
            continue
        if name in outside:
            theirs[HUB + outside[name]] = tensor
        elif stem in outside:
            theirs[("" if stem.startswith(HEADS) else HUB) + f"{outside[stem]}.{kind}"] = tensor
        else:
            _, _, layer, part = stem.split(".", 3)
            names = [f"attn.{letter}" for letter in "qkv"] if part == "attn.qkv" else [part]
            for own, piece in zip(names, tensor.chunk(len(names))):
                theirs[f"{HUB}encoder.layer.{layer}.{inside[own]}.{kind}"] = piece
    return theirs


def split_positions(positions_1ND: Tensor, rows: int, source: str) -> dict[str, Tensor]:
    """Return the tables of rows and columns of which a grid of positions is the sum.

    A vector could go from one table to the other without changing the sum; here the first row's is zero.

    Raises:
        WeightsError: the grid is no such sum.
    """
    if (positions_1ND.shape[1] - EXTRA) % rows:
        raise WeightsError(
            f"{source}: {positions_1ND.shape[1]} positions are not 2 and {rows} rows of patches; not a MAEST"
        )
    grid_1DRC = positions_1ND[:, EXTRA:].mT.unflatten(2, (rows, -1))
    time_1D1C = grid_1DRC[:, :, :1]
    frequency_1DR1 = (grid_1DRC.double() - time_1D1C).mean(3, keepdim=True).to(grid_1DRC.dtype)
    rest = float((grid_1DRC - time_1D1C - frequency_1DR1).abs().max())
    if not rest <= LARGEST_REST:
        raise WeightsError(
            f"{source}: its positions are no sum of rows and columns (off by {rest:.2g}), so it is an AST but no MAEST"
        )
    return {FIRST_TWO: positions_1ND[:, :EXTRA], FREQUENCY: frequency_1DR1, TIME: time_1D1C.clone()}


def fitted(ours: dict[str, Tensor], shape: VitShape, source: str, interpolate: bool = False) -> dict[str, Tensor]:
    """Return weights whose table of columns has the shape's length, stretched to it where that is wished.

    Raises:
        WeightsError: it has another length, and is not to be stretched.
    """
    columns = ours[TIME].shape[-1] if TIME in ours else shape.columns
    if interpolate:
        return resized(ours, shape)
    if columns == shape.columns:
        return ours
    raise WeightsError(
        f"{source}: has positions for {columns * 0.16:.0f} s ({columns} columns) where {shape.columns * 0.16:.0f} s "
        f"({shape.columns}) are wanted; take the variant of that length, or --interpolate to stretch them"
    )


def resized(ours: Mapping[str, Tensor], shape: VitShape) -> dict[str, Tensor]:
    """Return the weights with both tables of positions stretched by bicubic interpolation, as from PaSST to MAEST."""
    sizes = {FREQUENCY: (shape.rows, 1), TIME: (1, shape.columns)}
    return {
        name: interpolate(tensor, sizes[name], mode="bicubic", align_corners=False)
        if name in sizes and tuple(tensor.shape[2:]) != sizes[name]
        else tensor
        for name, tensor in ours.items()
    }
