"""MAEST's weights under all their names: GitHub's files, Lightning checkpoints, Hugging Face's AST, and ours.

Ours are GitHub's with `vit.` before all but the heads. A Lightning checkpoint has `net.` before them, and `net_swa.`
before the averaged weights, which are used where they exist. Hugging Face splits queries, keys and values, adds the two
tables of positions, omits the second head, and renamed the parts of a layer in transformers 5; both spellings are read
and the older one is written, which both versions load [notes/encoders §1.8].

Letters: R rows, C columns of patches, D dimension.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from carrara.core.errors import WeightsError
from carrara.formats.safe_pickle import read_torch_checkpoint
from carrara.formats.weights import read_tensors
from carrara.nn.transformer.vit import NUM_PREFIX_TOKENS, VitShape

HEADS = ("head.", "head_dist.")
TRUNK = (
    "cls_token", "dist_token", "new_pos_embed", "freq_new_pos_embed", "time_new_pos_embed", "patch_embed.", "blocks.",
    "norm.",
)  # fmt: skip
# The front end's window and filter bank, which the authors' later code stores beside the weights.
CONSTANTS = {"melspectrogram.spec.window": (512,), "melspectrogram.mel_scale.fb": (257, 96)}
AVERAGED, TRAINED = "net_swa.", "net."
FREQUENCY, TIME, FIRST_TWO = "vit.freq_new_pos_embed", "vit.time_new_pos_embed", "vit.new_pos_embed"
AST_PREFIX = "audio_spectrogram_transformer."
AST_POSITIONS = "embeddings.position_embeddings"
OUTSIDE_LAYERS = {
    "embeddings.cls_token": "vit.cls_token",
    "embeddings.distillation_token": "vit.dist_token",
    "embeddings.patch_embeddings.projection": "vit.patch_embed.proj",
    "layernorm": "vit.norm",
    "classifier.layernorm": "head.0",
    "classifier.dense": "head.1",
}
INSIDE_LAYERS = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "attention.attention.query": "attn.q",
    "attention.attention.key": "attn.k",
    "attention.attention.value": "attn.v",
}
INSIDE_LAYERS_5 = {  # transformers 5
    "attention.o_proj": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "attention.q_proj": "attn.q",
    "attention.k_proj": "attn.k",
    "attention.v_proj": "attn.v",
}
AST_LAYER = re.compile(r"^(?:encoder\.layer|layers)\.(\d+)\.(.+)$")
MAX_REMAINDER = 1e-3  # of a grid of positions that is a sum of two tables, stored in half precision at worst


def read_maest_checkpoint(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a `.ckpt`, flat or by Lightning, or of the only one in a folder, by its own names.

    Raises:
        WeightsError: there is not exactly one, or it holds no weights.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.glob("*.ckpt"))
        if not files and (path / "config.json").is_file():
            raise WeightsError(
                f"{path}: holds no .ckpt but a config.json; such a folder needs no import, give it as it is: "
                f"`carrara bench {path}`, or carrara.load({str(path)!r}) in Python"
            )
        if len(files) != 1:
            raise WeightsError(f"{path}: holds {len(files)} .ckpt files; name one")
        path = files[0]
    content = read_tensors(path) if path.suffix == ".safetensors" else read_torch_checkpoint(path)
    table = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    if not table or not all(isinstance(tensor, Tensor) for tensor in table.values()):
        raise WeightsError(f"{path}: holds no table of tensors, so it is no MAEST")
    return dict(table)


def from_github(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of GitHub's files and of Lightning checkpoints by our names, in single precision.

    The front end's constants are dropped; unknown names stay as they are in the file.
    """
    prefix = next((start for start in (AVERAGED, TRAINED) if any(name.startswith(start) for name in tensors)), "")
    ours = {}
    for full, tensor in tensors.items():
        name = full.removeprefix(prefix)
        if (prefix == AVERAGED and full.startswith(TRAINED)) or tuple(tensor.shape) == CONSTANTS.get(name):
            continue
        ours[f"vit.{name}" if name.startswith(TRUNK) else name if name.startswith(HEADS) else full] = tensor.float()
    return ours


def from_ast(tensors: Mapping[str, Tensor], rows: int, source: str) -> dict[str, Tensor]:
    """Return the tensors of Hugging Face's AST by our names, in single precision; unknown names stay as they are.

    Raises:
        WeightsError: the positions are no sum of a table of rows and one of columns.
    """
    inside = INSIDE_LAYERS | INSIDE_LAYERS_5
    ours: dict[str, Tensor] = {}
    for full, tensor in tensors.items():
        name, tensor = full.removeprefix(AST_PREFIX), tensor.float()
        stem, dot, kind = name.rpartition(".")
        layer = AST_LAYER.match(stem)
        if name == AST_POSITIONS:
            ours |= split_positions(tensor, rows, source)
        elif name in OUTSIDE_LAYERS:
            ours[OUTSIDE_LAYERS[name]] = tensor
        elif stem in OUTSIDE_LAYERS:
            ours[OUTSIDE_LAYERS[stem] + dot + kind] = tensor
        elif layer and layer[2] in inside:
            ours[f"vit.blocks.{layer[1]}.{inside[layer[2]]}.{kind}"] = tensor
        else:
            ours[full] = tensor
    for name in [name for name in ours if ".attn.q." in name]:
        parts = [name.replace(".attn.q.", f".attn.{letter}.") for letter in "qkv"]
        if all(part in ours for part in parts):
            ours[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat([ours.pop(part) for part in parts])
    return ours


def to_ast(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return our tensors by the names of Hugging Face's AST in transformers 4; the second head is omitted."""
    grid_1DRC = ours[FREQUENCY] + ours[TIME]
    theirs = {AST_PREFIX + AST_POSITIONS: torch.cat([ours[FIRST_TWO], grid_1DRC.flatten(2).mT], 1)}
    outside = {our: their for their, our in OUTSIDE_LAYERS.items()}
    inside = {our: their for their, our in INSIDE_LAYERS.items()}
    for name, tensor in ours.items():
        stem, _, kind = name.rpartition(".")
        if name in (FREQUENCY, TIME, FIRST_TWO) or name.startswith("head_dist."):
            continue
        if name in outside:
            theirs[AST_PREFIX + outside[name]] = tensor
        elif stem in outside:
            theirs[("" if stem.startswith(HEADS) else AST_PREFIX) + f"{outside[stem]}.{kind}"] = tensor
        else:
            _, _, layer, part = stem.split(".", 3)
            names = [f"attn.{letter}" for letter in "qkv"] if part == "attn.qkv" else [part]
            for own, piece in zip(names, tensor.chunk(len(names))):
                theirs[f"{AST_PREFIX}encoder.layer.{layer}.{inside[own]}.{kind}"] = piece
    return theirs


def split_positions(positions_1ND: Tensor, rows: int, source: str) -> dict[str, Tensor]:
    """Return the tables of rows and columns whose sum is a grid of positions.

    A vector could move from one table to the other without changing the sum; here the first row's is zero.

    Raises:
        WeightsError: the grid is no such sum.
    """
    if (positions_1ND.shape[1] - NUM_PREFIX_TOKENS) % rows:
        raise WeightsError(
            f"{source}: {positions_1ND.shape[1]} positions are not 2 and {rows} rows of patches; not a MAEST"
        )
    grid_1DRC = positions_1ND[:, NUM_PREFIX_TOKENS:].mT.unflatten(2, (rows, -1))
    time_1D1C = grid_1DRC[:, :, :1]
    frequency_1DR1 = (grid_1DRC.double() - time_1D1C).mean(3, keepdim=True).to(grid_1DRC.dtype)
    remainder = float((grid_1DRC - time_1D1C - frequency_1DR1).abs().max())
    if not remainder <= MAX_REMAINDER:
        raise WeightsError(
            f"{source}: its positions are no sum of rows and columns (off by {remainder:.2g}), so it is an AST but no "
            "MAEST"
        )
    return {FIRST_TWO: positions_1ND[:, :NUM_PREFIX_TOKENS], FREQUENCY: frequency_1DR1, TIME: time_1D1C.clone()}


def match_time_positions(
    ours: dict[str, Tensor], shape: VitShape, source: str, interpolate: bool = False
) -> dict[str, Tensor]:
    """Return weights whose table of columns has the shape's length, after interpolation if that is allowed.

    Raises:
        WeightsError: the table has another length, and interpolation is not allowed.
    """
    columns = ours[TIME].shape[-1] if TIME in ours else shape.columns
    if interpolate:
        return interpolate_positions(ours, shape)
    if columns == shape.columns:
        return ours
    raise WeightsError(
        f"{source}: has positions for {columns * 0.16:.0f} s ({columns} columns) where {shape.columns * 0.16:.0f} s "
        f"({shape.columns}) are needed; take the variant of that length, or --interpolate to stretch them"
    )


def interpolate_positions(ours: Mapping[str, Tensor], shape: VitShape) -> dict[str, Tensor]:
    """Return the weights with both tables of positions interpolated bicubically, as from PaSST to MAEST."""
    sizes = {FREQUENCY: (shape.rows, 1), TIME: (1, shape.columns)}
    return {
        name: interpolate(tensor, sizes[name], mode="bicubic", align_corners=False)
        if name in sizes and tuple(tensor.shape[2:]) != sizes[name]
        else tensor
        for name, tensor in ours.items()
    }
