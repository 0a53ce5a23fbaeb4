"""Jukebox, made small, against numpy: naive convolutions, dense attention under masks; how clips are cut; its kinds."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from carrara.core.errors import UsageError
from carrara.core.settings import replace
from carrara.encoders._hub.load import build_encoder
from carrara.encoders._jukebox.files import read_jukebox_tensors
from carrara.encoders._jukebox.network import Codec, compute_time_bins
from carrara.encoders.jukebox import ENCODER, Jukebox, JukeboxSettings, split_pieces

CARD = ENCODER.variants["jukebox-5b"][0]
BLOCKS = 6
WINDOW = 64 * 128  # of the small network
SECOND = 44_100


def noise(samples, seed=0):
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def doubles(table, prefix):
    return {name.removeprefix(prefix): value.double().numpy() for name, value in table.items() if prefix in name}


def convolved(x_CT, weight, bias, stride, padding, dilation):
    """A convolution, one tap at a time."""
    x_CT = np.pad(x_CT, ((0, 0), (padding, padding)))
    taps = weight.shape[2]
    count = (x_CT.shape[1] - dilation * (taps - 1) - 1) // stride + 1
    total = np.repeat(bias[:, None], count, axis=1)
    for tap in range(taps):
        total += weight[:, :, tap] @ x_CT[:, tap * dilation :][:, : stride * (count - 1) + 1 : stride]
    return total


def codec_by_numpy(table, samples_T, depth):
    """Tokens of a clip."""
    values, x_CT = doubles(table, "encoders.2.level_blocks."), samples_T.double().numpy()[None]

    def conv(x_CT, name, **how):
        return convolved(x_CT, values[name + ".weight"], values[name + ".bias"], **how)

    for level, halvings in enumerate((3, 2, 2)):
        for i in range(halvings):
            x_CT = conv(x_CT, f"{level}.model.{i}.0", stride=2, padding=1, dilation=1)
            for j in range(depth):
                block = f"{level}.model.{i}.1.model.{j}.model."
                y_CT = conv(np.maximum(x_CT, 0), block + "1", stride=1, padding=3**j, dilation=3**j)
                x_CT = x_CT + conv(np.maximum(y_CT, 0), block + "3", stride=1, padding=0, dilation=1)
        x_CT = conv(x_CT, f"{level}.model.{halvings}", stride=1, padding=1, dilation=1)
    codes_KD = table["bottleneck.level_blocks.2.k"].double().numpy()
    return np.array([((code - codes_KD) ** 2).sum(axis=1).argmin() for code in x_CT.T])


def attended(state_ND, mask_NN, heads):
    """Dense attention under a mask; who may attend to nothing gets zeros."""
    query, key, value = np.split(state_ND, 3, axis=1)
    parts = []
    for q, k, v in zip(*(np.split(x, heads, axis=1) for x in (query, key, value))):
        weight = np.exp(q @ k.T / np.sqrt(q.shape[1])) * mask_NN
        total = weight.sum(axis=1, keepdims=True)
        parts.append(np.divide(weight, total, out=np.zeros_like(weight), where=total > 0) @ v)
    return np.concatenate(parts, axis=1)


def masks(count, row):
    query, key = np.mgrid[:count, :count]
    return [
        (query // row == key // row) & (key <= query),
        (query % row == key % row) & (key <= query),
        query // row == key // row + 1,
    ]


def prior_by_numpy(table, tokens_N, settings):
    """The output of every block, `[blocks][tokens, width]`."""
    values, count, context = doubles(table, ""), len(tokens_N), settings.context
    place = np.arange(context) * 128
    seconds = np.floor(settings.time_bins * place / 26_460_000).astype(int)
    part = np.floor(settings.time_bins * place / 2_734_080).astype(int)
    length = int(settings.time_bins * (2_734_080 - 2_646_000) / (26_460_000 - 2_646_000))
    labels = ("y_emb.total_length_emb", "y_emb.absolute_pos_emb", "y_emb.relative_pos_emb")
    time = sum(values[name + ".emb.weight"][rows] for name, rows in zip(labels, (length, seconds, part)))
    start = values["y_emb.artist_emb.emb.weight"][0] + values["y_emb.bow_genre_emb.emb.weight"][0]
    before = np.concatenate([start[None], values["prior.x_emb.weight"][tokens_N[:-1]]])
    x = before + (values["prior.pos_emb.pos_emb"] + time)[:count]
    outputs = []
    for i in range(BLOCKS):
        block = doubles(table, f"prior.transformer._attn_mods.{i}.")

        def norm(x, name, block=block):
            spread = np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
            return (x - x.mean(axis=1, keepdims=True)) / spread * block[name + ".weight"] + block[name + ".bias"]

        def product(x, name, block=block):
            return x @ block[name + ".w"] + block[name + ".b"]

        state = product(norm(x, "ln_0"), "attn.c_attn")
        mask = masks(count, settings.row_length)[i % 3]
        a = product(attended(state, mask, settings.num_heads), "attn.c_proj")
        hidden = product(norm(x + a, "ln_1"), "mlp.c_fc")
        x = x + a + product(hidden / (1 + np.exp(-1.702 * hidden)), "mlp.c_proj")
        outputs.append(x)
    return outputs


@pytest.fixture(scope="module")
def tables(small):
    return small.codec_table(), small.prior_table(BLOCKS)


@pytest.fixture(scope="module")
def folder(small, tables, tmp_path_factory):
    return small.write(tmp_path_factory.mktemp("jukebox"), *tables)


@pytest.fixture(scope="module")
def loaded(small, folder):
    """The small network with the tables' weights, with any settings changed."""

    def load(**changes):
        settings = replace(small.settings, changes)
        encoder = Jukebox(settings, ENCODER.update_card(CARD, settings))
        encoder.load_state_dict(read_jukebox_tensors(folder, settings.layer, getattr(torch, settings.dtype)))
        return encoder.eval()

    return load


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


class TestAgainstNumpy:
    def test_tokens_are_the_nearest_codes(self, small, tables, loaded):
        samples_T = noise(WINDOW)
        expected = codec_by_numpy(tables[0], samples_T, small.settings.codec_depth)
        assert len(set(expected)) > 10
        assert loaded().codec(samples_T[None])[0].tolist() == expected.tolist()

    @pytest.mark.parametrize("layer", range(1, BLOCKS + 1))
    @pytest.mark.parametrize("count", [64, 8])
    def test_each_layer_is_dense_attention_under_its_mask(self, small, tables, loaded, layer, count):
        tokens_N = torch.randint(small.settings.codebook_size, (count,), generator=torch.Generator().manual_seed(1))
        expected = prior_by_numpy(tables[1], tokens_N.numpy(), small.settings)[layer - 1]
        actual = loaded(layer=layer).prior(tokens_N[None])[0]
        torch.testing.assert_close(actual, torch.from_numpy(expected).float(), atol=2e-5, rtol=1e-5)

    def test_features_are_the_mean_of_the_tokens_activations(self, small, tables, loaded):
        settings, samples_T = small.settings, 0.1 * noise(WINDOW)
        tokens_N = codec_by_numpy(tables[0], samples_T / samples_T.abs().max(), settings.codec_depth)
        expected = prior_by_numpy(tables[1], tokens_N, settings)[settings.layer - 1].mean(axis=0)
        actual = loaded()(samples_T[None])
        assert actual.shape == (1, 1, 1, settings.dim)
        torch.testing.assert_close(actual[0, 0, 0], torch.from_numpy(expected).float(), atol=2e-5, rtol=1e-5)

    def test_published_half_precision_weights_lose_nothing(self, loaded):
        """The file's matrices are halves, and multiplied in float32 like JukeMIR's, however they are kept."""
        clip_BT = noise(WINDOW)[None]
        kept = loaded(dtype="float16")
        halves = {
            name.rpartition(".")[2] for name, tensor in kept.state_dict().items() if tensor.dtype != torch.float32
        }
        assert halves == {"weight_IO"}
        torch.testing.assert_close(kept(clip_BT), loaded(dtype="float32")(clip_BT), atol=1e-6, rtol=1e-6)

    def test_half_precision_and_autocast_are_near_single_precision(self, loaded):
        clip_BT = noise(WINDOW)[None]
        exact = loaded()(clip_BT).flatten()
        rough = loaded(dtype="bfloat16")(clip_BT).flatten()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            automatic = loaded()(clip_BT).float().flatten()
        for other in (rough, automatic):
            assert torch.nn.functional.cosine_similarity(exact, other, dim=0) > 0.999


class TestTime:
    def test_bins_of_the_real_window(self):
        length, seconds, part = compute_time_bins(8192, 128)
        assert length == Fraction(128 * (2_734_080 - 2_646_000), 26_460_000 - 2_646_000) // 1 == 0
        places = [128 * i for i in range(8192)]
        assert seconds.tolist() == [Fraction(128 * place, 26_460_000) // 1 for place in places]
        exact = [Fraction(128 * place, 2_734_080) for place in places]
        inside = [i for i, value in enumerate(exact) if value.denominator > 1]
        assert part[inside].tolist() == [exact[i] // 1 for i in inside]
        # On the edge of two bins single precision decides: (window / song) · (i / 8192) · 128, from left to right.
        share = np.float32(1_048_576) / np.float32(2_734_080)
        edge = [i for i, value in enumerate(exact) if value.denominator == 1]
        rounded = [np.floor(np.float32(128) * (share * (np.float32(i) / np.float32(8192)))) for i in edge]
        assert part[edge].tolist() == rounded


class TestPieces:
    WINDOW, PIECE = 1_048_576, 30 * SECOND

    @pytest.mark.parametrize(
        ("samples", "sizes"),
        [
            (1, [8]),
            (SECOND, [8]),
            (196_607, [8]),  # one sample nearer to an eighth
            (196_608, [4]),  # as near to both: the longer
            (10 * SECOND, [2]),
            (30 * SECOND, [1]),
            (61 * SECOND, [1, 1, 8]),
            (61 * SECOND - 1, [1, 1]),
        ],
    )
    def test_each_piece_has_the_nearest_number_of_tokens(self, samples, sizes):
        actual = split_pieces(torch.ones(samples), self.PIECE, self.WINDOW)
        assert [len(piece) for piece in actual] == [self.WINDOW // size for size in sizes]
        assert actual[0].sum() == min(samples, len(actual[0]))

    def test_the_mean_of_the_pieces_is_the_clip(self, loaded):
        encoder, piece = loaded(piece_seconds=0.25), 11_025
        clip_T = noise(3 * piece).clamp(-1, 1)
        clip_T[::piece] = 1.0
        alone = torch.cat([encoder(part[None]) for part in clip_T.split(piece)]).mean(dim=0)
        torch.testing.assert_close(encoder(clip_T[None])[0], alone, atol=1e-6, rtol=1e-6)

    def test_a_long_clip_is_encoded_one_piece_at_a_time(self, loaded):
        encoder, seen = loaded(piece_seconds=0.25), []
        encoder.prior.register_forward_hook(lambda _, given, __: seen.append(given[0].shape))
        encoder(noise(20 * 11_025)[None])
        assert seen == [(1, 64)] * 20

    def test_unequal_clips_have_the_same_features_in_a_batch_as_alone(self, loaded):
        encoder, clips = loaded(), [noise(length, seed) for seed, length in enumerate((9000, 4000, 300))]
        batch = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True, padding_value=7.0)
        together = encoder(batch, torch.tensor([len(clip) for clip in clips]))
        assert torch.equal(together, torch.cat([encoder(clip[None]) for clip in clips]))
        assert not torch.equal(together[0], together[1])

    def test_features_do_not_depend_on_loudness(self, loaded):
        clip_BT = noise(WINDOW)[None]
        assert torch.equal(loaded()(clip_BT), loaded()(0.125 * clip_BT))

    @pytest.mark.parametrize("clip_BT", [torch.zeros(1, 5000), torch.full((1, 1), 0.5), torch.full((1, 9000), -3.0)])
    def test_odd_clips_stay_finite(self, loaded, clip_BT):
        assert torch.isfinite(loaded()(clip_BT)).all()


class TestShelf:
    def test_the_real_size_is_built_without_memory(self):
        with torch.device("meta"):
            encoder = build_encoder("jukebox-5b")
        assert all(tensor.is_meta for tensor in encoder.state_dict().values())
        assert {sum(parameter.numel() for parameter in block.parameters()) for block in encoder.prior.blocks} == {
            69_157_200
        }
        assert len(encoder.prior.blocks) == 36
        assert encoder.card.parameters == sum(parameter.numel() for parameter in encoder.parameters())
        assert round(encoder.card.window_seconds * SECOND) == 8192 * 128
        # What the head of the file states, in bytes.
        assert sum(x.numel() * x.element_size() for x in encoder.state_dict().values()) < 5.3e9

    def test_only_the_blocks_up_to_the_layer_are_built(self):
        with torch.device("meta"):
            encoder = build_encoder("jukebox-5b", changes={"layer": 2})
        assert len(encoder.prior.blocks) == 2
        assert encoder.card.parameters == sum(parameter.numel() for parameter in encoder.parameters())

    def test_random_weights_follow_the_seed(self, small):
        first, again, other = (Jukebox(small.settings, CARD, seed).eval()(noise(3000)[None]) for seed in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_the_codes_are_no_parameter(self):
        assert "codes_KD" in dict(Codec(4, 1, 16, 8).named_buffers())

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"layer": 73}, "layer"),
            ({"dim": 4801}, "multiple of 4"),
            ({"row_length": 3}, "multiple of 8"),
            ({"dtype": "int8"}, "dtype"),
        ],
    )
    def test_invalid_settings_are_refused(self, change, message):
        with pytest.raises(UsageError, match=message):
            replace(JukeboxSettings(), change)
