"""Jukebox's published files, vqvae.pth.tar and prior_level_2.pth.tar, read without taking them into memory.

The prior's file holds 72 blocks in 10.3 GB. Both of torch's file kinds are mapped, and only what the network has is
copied out, one tensor at a time and straight into the kind it is kept in: no block above the wanted layer is ever
touched. What goes with decoding, the other levels and the prior's output is left in the files.
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
PARALLEL = "module."  # what training on several machines puts before names
CODEC_LEVELS, CODEC_CODES = "encoders.2.level_blocks.", "bottleneck.level_blocks.2.k"
CODEC_OTHERS = re.compile(r"encoders\.[01]\.|decoders\.|bottleneck\.level_blocks\.[01]\.")
BLOCK = re.compile(r"prior\.transformer\._attn_mods\.(?P<number>\d+)\.(?P<inner>.+)")
PRIOR_PLACES = {
    "prior.x_emb.weight": "prior.tokens.weight",
    "prior.pos_emb.pos_emb": "prior.positions_ND",
    "y_emb.artist_emb.emb.weight": "prior.artists.weight",
    "y_emb.bow_genre_emb.emb.weight": "prior.genres.weight",
    "y_emb.total_length_emb.emb.weight": "prior.song_length.weight",
    "y_emb.absolute_pos_emb.emb.weight": "prior.seconds.weight",
    "y_emb.relative_pos_emb.emb.weight": "prior.part.weight",
}
PRIOR_OUTPUT = "prior.x_out.weight"
BLOCK_PLACES = {
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


def read_official(path: Path, layer: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the weights of the codec and of the prior's first blocks, by the network's own names.

    Args:
        path: the folder that holds both files, or one of them with the other beside it.
        layer: how many blocks.
        dtype: in which the blocks' matrices are kept; all else becomes float32.

    Raises:
        WeightsError: a file is not there, not whole, or not of this model. Names that belong nowhere are returned as
            they are, so that the network's strict loading reports them.
    """
    codec, prior = _both(Path(path))
    tensors = {}
    for place, tensor in [*_codec(_table(codec), codec), *_prior(_table(prior), layer, prior)]:
        kept = dtype if place.endswith("weight_IO") else torch.float32
        tensors[place] = tensor.to(kept, copy=True)
    return tensors


def _both(path: Path) -> tuple[Path, Path]:
    if path.is_dir():
        found = path / CODEC_FILE, path / PRIOR_FILE
    elif path.name == CODEC_FILE:
        found = path, path.with_name(PRIOR_FILE)
    else:
        found = path.with_name(CODEC_FILE), path
    for file in found:
        if not file.is_file():
            raise WeightsError(f"{path}: {file.name} is not there; Jukebox is {CODEC_FILE} and {PRIOR_FILE} together")
    return found


def _table(path: Path) -> dict[str, Tensor]:
    content = read_torch_checkpoint(path, memory_map=True)
    table = content.get("model") if isinstance(content, Mapping) else None
    if not isinstance(table, Mapping):
        raise WeightsError(f"{path}: has no table 'model', so it is no checkpoint of Jukebox; give {path.name} itself")
    tensors = {str(name): tensor for name, tensor in table.items() if isinstance(tensor, Tensor)}
    return {name.removeprefix(PARALLEL): tensor for name, tensor in tensors.items()}


def _codec(table: Mapping[str, Tensor], path: Path) -> Iterator[tuple[str, Tensor]]:
    if CODEC_CODES not in table:
        raise WeightsError(f"{path}: has no {CODEC_CODES}, so it is not Jukebox's VQ-VAE; give {CODEC_FILE}")
    for name, tensor in table.items():
        if name == CODEC_CODES:
            yield "codec.codes_KD", tensor
        elif name.startswith(CODEC_LEVELS):
            yield "codec.levels." + name.removeprefix(CODEC_LEVELS).replace("model.", ""), tensor
        elif not CODEC_OTHERS.match(name):
            yield name, tensor


def _prior(table: Mapping[str, Tensor], layer: int, path: Path) -> Iterator[tuple[str, Tensor]]:
    if not any(map(BLOCK.match, table)):
        raise WeightsError(f"{path}: has no prior.transformer blocks, so it is not Jukebox's prior; give {PRIOR_FILE}")
    for name, tensor in table.items():
        if block := BLOCK.match(name):
            if int(block["number"]) < layer:
                place = BLOCK_PLACES.get(block["inner"])
                yield f"prior.blocks.{block['number']}.{place}" if place else name, tensor
        elif name != PRIOR_OUTPUT:
            yield PRIOR_PLACES.get(name, name), tensor
