"""MAEST's weights under all their names: the published table of keys, positions split and stretched, constants."""

import math

import pytest
import torch

from carrara.core.errors import WeightsError
from carrara.encoders._hub.load import build_encoder
from carrara.encoders._maest.keys import (
    FREQUENCY,
    TIME,
    from_ast,
    from_github,
    interpolate_positions,
    split_positions,
    to_ast,
)
from carrara.nn.transformer.vit import VitShape

AST = "audio_spectrogram_transformer."
# GitHub's name, that of transformers 4 and that of transformers 5 (encoders.md 1.8), of one block and all around the
# blocks; "…" is the prefix above, ":1" the second third.
TABLE = """
cls_token                   …embeddings.cls_token                                 …embeddings.cls_token
dist_token                  …embeddings.distillation_token                        …embeddings.distillation_token
patch_embed.proj.weight     …embeddings.patch_embeddings.projection.weight        …embeddings.patch_embeddings.projection.weight
patch_embed.proj.bias       …embeddings.patch_embeddings.projection.bias          …embeddings.patch_embeddings.projection.bias
blocks.1.norm1.weight       …encoder.layer.1.layernorm_before.weight              …layers.1.layernorm_before.weight
blocks.1.norm1.bias         …encoder.layer.1.layernorm_before.bias                …layers.1.layernorm_before.bias
blocks.1.norm2.weight       …encoder.layer.1.layernorm_after.weight               …layers.1.layernorm_after.weight
blocks.1.norm2.bias         …encoder.layer.1.layernorm_after.bias                 …layers.1.layernorm_after.bias
blocks.1.attn.qkv.weight:0  …encoder.layer.1.attention.attention.query.weight     …layers.1.attention.q_proj.weight
blocks.1.attn.qkv.weight:1  …encoder.layer.1.attention.attention.key.weight       …layers.1.attention.k_proj.weight
blocks.1.attn.qkv.weight:2  …encoder.layer.1.attention.attention.value.weight     …layers.1.attention.v_proj.weight
blocks.1.attn.qkv.bias:0    …encoder.layer.1.attention.attention.query.bias       …layers.1.attention.q_proj.bias
blocks.1.attn.qkv.bias:1    …encoder.layer.1.attention.attention.key.bias         …layers.1.attention.k_proj.bias
blocks.1.attn.qkv.bias:2    …encoder.layer.1.attention.attention.value.bias       …layers.1.attention.v_proj.bias
blocks.1.attn.proj.weight   …encoder.layer.1.attention.output.dense.weight        …layers.1.attention.o_proj.weight
blocks.1.attn.proj.bias     …encoder.layer.1.attention.output.dense.bias          …layers.1.attention.o_proj.bias
blocks.1.mlp.fc1.weight     …encoder.layer.1.intermediate.dense.weight            …layers.1.mlp.fc1.weight
blocks.1.mlp.fc1.bias       …encoder.layer.1.intermediate.dense.bias              …layers.1.mlp.fc1.bias
blocks.1.mlp.fc2.weight     …encoder.layer.1.output.dense.weight                  …layers.1.mlp.fc2.weight
blocks.1.mlp.fc2.bias       …encoder.layer.1.output.dense.bias                    …layers.1.mlp.fc2.bias
norm.weight                 …layernorm.weight                                     …layernorm.weight
norm.bias                   …layernorm.bias                                       …layernorm.bias
head.0.weight               classifier.layernorm.weight                           classifier.layernorm.weight
head.0.bias                 classifier.layernorm.bias                             classifier.layernorm.bias
head.1.weight               classifier.dense.weight                               classifier.dense.weight
head.1.bias                 classifier.dense.bias                                 classifier.dense.bias
"""  # noqa: E501
ROWS = [row.replace("…", AST).split() for row in TABLE.strip().splitlines()]
POSITIONS = AST + "embeddings.position_embeddings"
SIZES = {"dim": 24, "num_layers": 2, "num_heads": 2, "ffn_dim": 48, "classes": 7}
CONSTANTS = {"melspectrogram.spec.window": (512,), "melspectrogram.mel_scale.fb": (257, 96)}


@pytest.fixture
def tensors():
    """Return weights of two blocks by GitHub's names, no two alike."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = build_encoder("maest-tiny", changes=SIZES).state_dict()
    return {name.removeprefix("vit."): torch.randn(t.shape, generator=generator) for name, t in shapes.items()}


def of_hub(tensors, column):
    """Return a file of Hugging Face's, of both blocks, as a column of the table spells it."""
    frequency, time = tensors["freq_new_pos_embed"], tensors["time_new_pos_embed"]
    file = {POSITIONS: torch.cat([tensors["new_pos_embed"], (frequency + time).flatten(2).mT], 1)}
    for row in ROWS:
        for layer in ("0", "1"):
            own, theirs = row[0], row[column]
            if own.startswith("blocks."):
                own, theirs = own.replace(".1.", f".{layer}."), theirs.replace(".1.", f".{layer}.")
            stem, _, third = own.partition(":")
            file[theirs] = tensors[stem].chunk(3)[int(third)] if third else tensors[stem]
    return file


def test_hugging_faces_names_are_the_published_ones(tensors):
    written, expected = to_ast(from_github(tensors)), of_hub(tensors, 1)
    assert written.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(written[name], tensor), name


@pytest.mark.parametrize("column", [1, 2])
def test_names_of_both_versions_of_transformers_are_read(tensors, column):
    read, expected = from_ast(of_hub(tensors, column), 9, "x"), from_github(tensors)
    assert read.keys() == {name for name in expected if not name.startswith("head_dist.")}
    for name in read.keys() - {FREQUENCY, TIME}:
        assert torch.equal(read[name], expected[name]), name
    torch.testing.assert_close(read[FREQUENCY] + read[TIME], expected[FREQUENCY] + expected[TIME])


@pytest.mark.parametrize("prefix", ["", "net.", "net_swa."])
def test_the_front_ends_two_constants_are_left_out_where_they_have_its_shape(tensors, prefix):
    file = {prefix + name: tensor for name, tensor in tensors.items()}
    stored = {prefix + name: torch.ones(shape) for name, shape in CONSTANTS.items()}
    read = from_github(file | stored)
    assert read.keys() == from_github(tensors).keys()
    assert all(torch.equal(tensor, read["vit." + name]) for name, tensor in tensors.items() if "head" not in name)
    # Of another shape, or something else of the front end: kept, by the file's own name, to be refused.
    other = {name: tensor[1:] for name, tensor in stored.items()} | {f"{prefix}melspectrogram.mel": torch.ones(257, 96)}
    assert from_github(file | other).keys() - read.keys() == other.keys()


def test_summed_positions_are_split_back():
    frequency, time, first = torch.randn(1, 4, 9, 1), torch.randn(1, 4, 1, 31), torch.randn(1, 2, 4)
    rows = [first[0, 0], first[0, 1]] + [frequency[0, :, f, 0] + time[0, :, 0, t] for f in range(9) for t in range(31)]
    actual = split_positions(torch.stack(rows)[None], 9, "x")
    torch.testing.assert_close(actual[FREQUENCY] + actual[TIME], frequency + time)
    assert torch.equal(actual["vit.new_pos_embed"], first)
    with pytest.raises(WeightsError, match="an AST but no MAEST"):
        split_positions(torch.randn(1, 2 + 9 * 31, 4), 9, "x")
    with pytest.raises(WeightsError, match="not 2 and 9 rows"):
        split_positions(torch.randn(1, 280, 4), 9, "x")


def stretched(values, size):
    """Return a list at `size` places by cubic convolution with a = -0.75, the ends repeated."""

    def weight(distance, a=-0.75):
        x = abs(distance)
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

    count, actual = len(values), []
    for place in range(size):
        at = (place + 0.5) * count / size - 0.5
        near = range(math.floor(at) - 1, math.floor(at) + 3)
        actual.append(sum(weight(at - one) * values[min(max(one, 0), count - 1)] for one in near))
    return actual


def test_position_tables_are_interpolated_cubically_along_their_own_axis():
    """From PaSST's 12 rows and 99 columns to 9 and 187."""
    time, frequency = torch.randn(1, 4, 1, 99), torch.randn(1, 4, 12, 1)
    actual = interpolate_positions(
        {TIME: time, FREQUENCY: frequency, "head.1.bias": torch.ones(3)}, VitShape(frames=1875, dim=4)
    )
    assert actual[TIME].shape == (1, 4, 1, 187)
    assert actual[FREQUENCY].shape == (1, 4, 9, 1)
    for width in range(4):
        for name, table, size in ((TIME, time, 187), (FREQUENCY, frequency, 9)):
            expected = torch.tensor(stretched(table[0, width].flatten().tolist(), size))
            torch.testing.assert_close(actual[name][0, width].flatten(), expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(actual["head.1.bias"], torch.ones(3))
