"""Jukebox's published files, vqvae.pth.tar and prior_level_2.pth.tar, read without loading them into memory.

The prior's file holds 72 blocks in 10.3 GB. Both of torch's file formats are memory-mapped, and only the network's
tensors are copied, one at a time and directly to their final type: no block above the selected layer is ever read. The
decoder, the other levels and the prior's output stay in the files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from carrara.core.errors import WeightsError
from carrara.formats.safe_pickle import read_torch_checkpoint

CODEC_FILE, PRIOR_FILE = "vqvae.pth.tar", "prior_level_2.pth.tar"
PARALLEL = "module."  # prefix of names after training on several machines
CODEC_LEVELS, CODEC_CODES = "encoders.2.level_blocks.", "bottleneck.level_blocks.2.k"
CODEC_OTHERS = re.compile(r"encoders\.[01]\.|decoders\.|bottleneck\.level_blocks\.[01]\.")
BLOCK = re.compile(r"prior\.transformer\._attn_mods\.(?P<number>\d+)\.(?P<inner>.+)")
PRIOR_NAMES = {
    "prior.x_emb.weight": "prior.tokens.weight",
    "prior.pos_emb.pos_emb": "prior.positions_ND",
    "y_emb.artist_emb.emb.weight": "prior.artists.weight",
    "y_emb.bow_genre_emb.emb.weight": "prior.genres.weight",
    "y_emb.total_length_emb.emb.weight": "prior.song_length.weight",
    "y_emb.absolute_pos_emb.emb.weight": "prior.seconds.weight",
    "y_emb.relative_pos_emb.emb.weight": "prior.part.weight",
}
PRIOR_OUTPUT = "prior.x_out.weight"
BLOCK_NAMES = {
    "ln_0.weight": "attention_norm.weight",
    "ln_0.bias": "attention_norm.bias",
    "attn.c_attn.w": "attention.query_key_value.weight_IO",
    "attn.c_attn.b": "attention.query_key_value.bias_O",
    "attn.c_proj.w": "attention.out.weight_IO",
    "attn.c_proj.b": "attention.out.bias_O",
    "ln_1.weight": "perceptron_norm.weight",
    "ln_1.bias": "perceptron_norm.bias",
    "mlp.c_fc.w": "wide.weight_IO",
    "mlp.c_fc.b": "wide.bias_O",
    "mlp.c_proj.w": "narrow.weight_IO",
    "mlp.c_proj.b": "narrow.bias_O",
}


def read_jukebox_tensors(path: Path, layer: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the weights of the codec and of the prior's first blocks, by the network's own names.

    Args:
        path: the folder that holds both files, or one of them with the other beside it.
        layer: number of blocks.
        dtype: type of the blocks' matrices; all else becomes float32.

    Raises:
        WeightsError: a file is missing, damaged, or not of this model. Unknown names are returned unchanged, so that
            the network's strict loading reports them.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    codec = path if path.name == CODEC_FILE else folder / CODEC_FILE
    prior = folder / PRIOR_FILE if path.is_dir() or path.name == CODEC_FILE else path
    for file in (codec, prior):
        if not file.is_file():
            raise WeightsError(f"{path}: {file.name} is not there; Jukebox is {CODEC_FILE} and {PRIOR_FILE} together")
    tensors = {}
    for name, tensor in [*_codec_tensors(codec), *_prior_tensors(prior, layer)]:
        tensors[name] = tensor.to(dtype if name.endswith("weight_IO") else torch.float32, copy=True)
    return tensors


def _read_table(path: Path) -> dict[str, Tensor]:
    content = read_torch_checkpoint(path, memory_map=True)
    table = content.get("model") if isinstance(content, Mapping) else None
    if not isinstance(table, Mapping):
        raise WeightsError(f"{path}: has no table 'model', so it is no checkpoint of Jukebox; give {path.name} itself")
    tensors = {str(name): tensor for name, tensor in table.items() if isinstance(tensor, Tensor)}
    return {name.removeprefix(PARALLEL): tensor for name, tensor in tensors.items()}


def _codec_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    table = _read_table(path)
    if CODEC_CODES not in table:
        raise WeightsError(f"{path}: has no {CODEC_CODES}, so it is not Jukebox's VQ-VAE; give {CODEC_FILE}")
    for name, tensor in table.items():
        if name == CODEC_CODES:
            yield "codec.codes_KD", tensor
        elif name.startswith(CODEC_LEVELS):
            yield "codec.levels." + name.removeprefix(CODEC_LEVELS).replace("model.", ""), tensor
        elif not CODEC_OTHERS.match(name):
            yield name, tensor


def _prior_tensors(path: Path, layer: int) -> Iterator[tuple[str, Tensor]]:
    table = _read_table(path)
    if not any(map(BLOCK.match, table)):
        raise WeightsError(f"{path}: has no prior.transformer blocks, so it is not Jukebox's prior; give {PRIOR_FILE}")
    for name, tensor in table.items():
        if block := BLOCK.match(name):
            if int(block["number"]) < layer:
                our_name = BLOCK_NAMES.get(block["inner"])
                yield f"prior.blocks.{block['number']}.{our_name}" if our_name else name, tensor
        elif name != PRIOR_OUTPUT:
            yield PRIOR_NAMES.get(name, name), tensor
