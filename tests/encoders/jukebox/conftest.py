"""A small Jukebox's weights by their published names, and files of them as the authors save them."""

import argparse
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from carrara.encoders.jukebox import JukeboxSettings

TINY = JukeboxSettings(
    layer=4,
    dtype="float32",
    dim=32,
    num_heads=2,
    context=64,
    row_length=4,
    codebook_size=64,
    code_dim=8,
    codec_channels=4,
    codec_depth=3,
    num_artists=5,
    num_genres=3,
    time_bins=4096,
)
CODEC_FILE, PRIOR_FILE = "vqvae.pth.tar", "prior_level_2.pth.tar"


def codec_table(settings=TINY, seed=0):
    """Names of the encoder of the top level and its codes, with some of what is not needed."""
    generator, table = np.random.default_rng(seed), {}

    def conv(name, outputs, inputs, taps):
        weight = generator.standard_normal((outputs, inputs, taps)) * (inputs * taps) ** -0.5
        table[name + ".weight"] = torch.from_numpy(weight).float()
        table[name + ".bias"] = torch.from_numpy(0.1 * generator.standard_normal(outputs)).float()

    width, code = settings.codec_channels, settings.code_dim
    for level, halvings in enumerate((3, 2, 2)):
        head = f"encoders.2.level_blocks.{level}.model."
        for i in range(halvings):
            inputs = width if i else (code if level else 1)
            conv(f"{head}{i}.0", width, inputs, 4)
            for j in range(settings.codec_depth):
                conv(f"{head}{i}.1.model.{j}.model.1", width, width, 3)
                conv(f"{head}{i}.1.model.{j}.model.3", width, width, 1)
        conv(f"{head}{halvings}", code, width, 3)
    table["bottleneck.level_blocks.2.k"] = (
        2 * torch.from_numpy(generator.standard_normal((settings.codebook_size, code))).float()
    )
    for name in ("encoders.0.level_blocks.0.model.0.0.bias", "decoders.2.out.weight", "bottleneck.level_blocks.0.k"):
        table[name] = torch.ones(3)
    return table


def prior_table(blocks, settings=TINY, seed=0):
    """Names of the prior with so many blocks; matrices in half precision, as published."""
    generator, width = np.random.default_rng(seed), settings.dim

    def normal(*shape, mean=0.0, spread=1.0):
        return torch.from_numpy(mean + spread * generator.standard_normal(shape)).float()

    table = {
        "prior.x_emb.weight": normal(settings.codebook_size, width),
        "prior.pos_emb.pos_emb": normal(settings.context, width, spread=0.3),
        "prior.x_out.weight": normal(settings.codebook_size, width),
        "y_emb.artist_emb.emb.weight": normal(settings.num_artists, width),
        "y_emb.bow_genre_emb.emb.weight": normal(settings.num_genres, width),
    }
    for name in ("total_length", "absolute_pos", "relative_pos"):
        table[f"y_emb.{name}_emb.emb.weight"] = normal(settings.time_bins, width)
    sizes = {
        "attn.c_attn": (width, 3 * width // 4),
        "attn.c_proj": (width // 4, width),
        "mlp.c_fc": (width, width),
        "mlp.c_proj": (width, width),
    }
    for i in range(blocks):
        head = f"prior.transformer._attn_mods.{i}."
        for norm in ("ln_0", "ln_1"):
            table[f"{head}{norm}.weight"] = normal(width, mean=1.0, spread=0.2)
            table[f"{head}{norm}.bias"] = normal(width, spread=0.2)
        for name, (inputs, outputs) in sizes.items():
            table[f"{head}{name}.w"] = normal(inputs, outputs, spread=inputs**-0.5).half()
            table[f"{head}{name}.b"] = normal(outputs, spread=0.1)
    return table


def write(folder, codec, prior, zipped=True, prefix=""):
    """Save both files as the authors do, with what else a training program leaves in them."""
    for name, table in ((CODEC_FILE, codec), (PRIOR_FILE, prior)):
        content = {
            "hps": argparse.Namespace(levels=3),
            "model": {prefix + key: tensor for key, tensor in table.items()},
            "opt": None,
            "step": 7,
        }
        torch.save(content, folder / name, _use_new_zipfile_serialization=zipped)
    return folder


@pytest.fixture(scope="session")
def small():
    """The small settings, the tables of their weights, and what saves them."""
    return SimpleNamespace(settings=TINY, codec_table=codec_table, prior_table=prior_table, write=write)
