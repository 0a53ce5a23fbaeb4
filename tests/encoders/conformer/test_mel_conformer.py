"""MERT-v2's network against one written in NumPy (float64) from the description; files by the official names."""

import json
import sys

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import save_file
from scipy.special import erf

from carrara.core.errors import UsageError, WeightsError
from carrara.encoders._conformer.mel_conformer import MelConformerEncoder, MelConformerSettings, mel_conformer_card
from carrara.encoders._hub.load import build_encoder, load, save_pretrained
from carrara.encoders._hub.official import convert_official, fetch_official
from carrara.encoders.mel_conformer import ENCODER
from carrara.nn.conv.convnext import ConvNextShape, ConvNextSubsampling, GlobalResponseNorm
from carrara.nn.transformer.conformer import rotary_cos_sin, rotary_frequencies

# 64 features a head, as published.
SMALL = {
    "num_bands": 16,
    "conv_channels": (16, 24, 128),
    "conv_depths": (1, 2, 1),
    "dim": 128,
    "num_layers": 2,
    "num_heads": 2,
    "ffn_dim": 48,
}
# config.json in the authors' layout.
CONFIG = {
    "model_type": "mert2",
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_depthwise_kernel_size": 31,
    "num_mel_bins": 16,
    "hop_length": 240,
    "subsampling_channels": [16, 24, 128],
    "subsampling_depths": [1, 2, 1],
    "rotary_embedding_base": 10_000,
    "layer_norm_eps": 1e-5,
    "subsampling_layer_norm_eps": 1e-6,
}


def official_shapes(settings):
    """Return names and shapes of the official file, as m-a-p/MERT-v2 has them, for a network of this size."""
    dim, inner, bands = settings.dim, settings.ffn_dim, settings.num_bands
    shapes = {
        "feature_extractor.spectrogram.window": (settings.n_fft,),
        "feature_extractor.mel_scale.fb": (settings.n_fft // 2 + 1, bands),
        "feature_extractor.mel_mean": (bands,),
        "feature_extractor.mel_std": (bands,),
    }

    def add(name, *shape, bias=True):
        shapes[f"{name}.weight"] = shape
        if bias:
            shapes[f"{name}.bias"] = shape[:1] if shape[0] > 1 or len(shape) < 3 else shape

    inputs = bands
    for stage, (channels, depth) in enumerate(zip(settings.conv_channels, settings.conv_depths)):
        stem = f"subsampling_module.{stage}"
        if stage > 0:
            add(f"{stem}.resampling_layer.0", inputs)
            add(f"{stem}.resampling_layer.2", channels, inputs, 2)
        for layer in range(depth):
            block = f"{stem}.convnext_layers.{layer}"
            add(f"{block}.depthwise_block.1", channels, 1, 7)
            add(f"{block}.pointwise_block.0", channels)
            add(f"{block}.pointwise_block.1", 4 * channels, channels)
            add(f"{block}.pointwise_block.3", 1, 1, 4 * channels)
            add(f"{block}.pointwise_block.4", channels, 4 * channels)
        inputs = channels
    for layer in range(settings.num_layers):
        stem = f"layers.{layer}"
        for name in ("ffn1_layer_norm", "attn_layer_norm", "conv_module.layer_norm", "ffn2_layer_norm"):
            add(f"{stem}.{name}", dim)
        for name in ("conv_module.conv_block.4.1", "final_layer_norm"):
            add(f"{stem}.{name}", dim)
        for name in ("ffn1", "ffn2"):
            add(f"{stem}.{name}.w_1", inner, dim)
            add(f"{stem}.{name}.w_2", dim, inner)
        for name in ("query_proj", "key_proj", "value_proj", "out_proj"):
            add(f"{stem}.attn.{name}", dim, dim)
        add(f"{stem}.conv_module.conv_block.1", 2 * dim, dim, 1, bias=False)
        add(f"{stem}.conv_module.conv_block.3", dim, 1, 31, bias=False)
        add(f"{stem}.conv_module.conv_block.6", dim, dim, 1, bias=False)
    return shapes


def official_tensors(settings, seed=7):
    """Return random tensors of the official names, of a size that keeps the network's values near 1."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in official_shapes(settings).items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith(("window", "fb", "mel_std")):
            tensors[name] = noise.abs() + (5.0 if name.endswith("mel_std") else 0.0)
        elif name.endswith("mel_mean"):
            tensors[name] = 20 + noise
        elif len(shape) == 1 and name.endswith(".weight"):
            tensors[name] = 1 + 0.3 * noise
        elif len(shape) == 1 or shape[:2] == (1, 1):
            tensors[name] = 0.3 * noise
        else:
            tensors[name] = noise / np.sqrt(np.prod(shape[1:]))
    return tensors


# The description in NumPy. Arrays are [frames, channels]; no padding, one clip.


def layer_norm(x, weights, name, eps):
    centred = x - x.mean(-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
    return normed * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x, weights, name):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def gelu(x):
    return 0.5 * x * (1 + erf(x / np.sqrt(2)))


def depthwise(x, kernel):
    taps = kernel.shape[-1]
    padded = np.pad(x, ((taps // 2, taps // 2), (0, 0)))
    return sum(padded[tap : tap + len(x)] * kernel[:, 0, tap] for tap in range(taps))


def reference_mel(samples, weights, hop, n_fft=2048):
    padded = np.pad(samples, n_fft // 2, mode="reflect")
    starts = range(0, len(samples) - len(samples) % hop, hop)
    frames = np.stack([padded[start : start + n_fft] for start in starts])
    power = np.abs(np.fft.rfft(frames * weights["feature_extractor.spectrogram.window"])) ** 2
    decibels = 10 * np.log10(np.maximum(power @ weights["feature_extractor.mel_scale.fb"], 1e-10))
    return (decibels - weights["feature_extractor.mel_mean"]) / weights["feature_extractor.mel_std"]


def convnext_layer(x, weights, name):
    y = depthwise(x, weights[f"{name}.depthwise_block.1.weight"]) + weights[f"{name}.depthwise_block.1.bias"]
    y = layer_norm(y, weights, f"{name}.pointwise_block.0", 1e-6)
    y = gelu(linear(y, weights, f"{name}.pointwise_block.1"))
    length = np.sqrt((y**2).sum(0))
    scaled = y * (length / (length.mean() + 1e-6))
    grn = f"{name}.pointwise_block.3"
    y = weights[f"{grn}.weight"][0, 0] * scaled + weights[f"{grn}.bias"][0, 0] + y
    return x + linear(y, weights, f"{name}.pointwise_block.4")


def rotate(x, heads):
    """Return `[frames, heads, features]` with features e and e + E/2 turned by the angle frame / 10000^(2e/E)."""
    x = x.reshape(len(x), heads, -1)
    half = x.shape[-1] // 2
    angle = np.arange(len(x))[:, None, None] / 10_000 ** (np.arange(half) / half)
    first, second = x[..., :half], x[..., half:]
    turned = (first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle))
    return np.concatenate(turned, -1)


def conformer_layer(x, weights, name, heads):
    def feed_forward(x, part):
        y = layer_norm(x, weights, f"{name}.{part}_layer_norm", 1e-5)
        return linear(gelu(linear(y, weights, f"{name}.{part}.w_1")), weights, f"{name}.{part}.w_2")

    x = x + 0.5 * feed_forward(x, "ffn1")
    y = layer_norm(x, weights, f"{name}.attn_layer_norm", 1e-5)
    q, k = (rotate(linear(y, weights, f"{name}.attn.{part}_proj"), heads) for part in ("query", "key"))
    v = linear(y, weights, f"{name}.attn.value_proj").reshape(q.shape)
    logits = np.einsum("qhe,khe->hqk", q, k) / np.sqrt(q.shape[-1])
    attention = np.exp(logits - logits.max(-1, keepdims=True))
    attention /= attention.sum(-1, keepdims=True)
    y = np.einsum("hqk,khe->qhe", attention, v).reshape(x.shape)
    x = x + linear(y, weights, f"{name}.attn.out_proj")
    block = f"{name}.conv_module.conv_block"
    y = layer_norm(x, weights, f"{name}.conv_module.layer_norm", 1e-5) @ weights[f"{block}.1.weight"][:, :, 0].T
    value, gate = np.split(y, 2, axis=-1)
    y = depthwise(value / (1 + np.exp(-gate)), weights[f"{block}.3.weight"])
    y = gelu(layer_norm(y, weights, f"{block}.4.1", 1e-5))
    x = x + y @ weights[f"{block}.6.weight"][:, :, 0].T
    x = x + 0.5 * feed_forward(x, "ffn2")
    return layer_norm(x, weights, f"{name}.final_layer_norm", 1e-5)


def reference_layers(samples, tensors, settings):
    """Return the num_layers + 1 outputs, `[frames, dim]` each."""
    weights = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    x = reference_mel(samples.double().numpy(), weights, settings.hop, settings.n_fft)
    for stage, depth in enumerate(settings.conv_depths):
        name = f"subsampling_module.{stage}"
        if stage > 0:
            y = layer_norm(x, weights, f"{name}.resampling_layer.0", 1e-6)
            kernel = weights[f"{name}.resampling_layer.2.weight"]
            even = len(y) // 2 * 2
            x = y[0:even:2] @ kernel[:, :, 0].T + y[1:even:2] @ kernel[:, :, 1].T
            x = x + weights[f"{name}.resampling_layer.2.bias"]
        for layer in range(depth):
            x = convnext_layer(x, weights, f"{name}.convnext_layers.{layer}")
    outputs = [x]
    for layer in range(settings.num_layers):
        outputs.append(conformer_layer(outputs[-1], weights, f"layers.{layer}", settings.num_heads))
    return outputs


@pytest.fixture(scope="module")
def settings():
    return MelConformerSettings(**SMALL)


@pytest.fixture(scope="module")
def tensors(settings):
    return official_tensors(settings)


@pytest.fixture
def small_variants(settings, monkeypatch):
    """Make the published variants small, so that whole imports can be tested."""
    for name in ("mert-v2-30s", "mert-v2-fullsong"):
        monkeypatch.setitem(ENCODER.variants, name, (ENCODER.variants[name][0], settings))


@pytest.fixture
def folder(tensors, tmp_path):
    folder = tmp_path / "MERT-v2-30s"
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.fixture
def encoder(folder, small_variants):
    return convert_official("mert-v2-30s", folder).eval()


def student(**changes):
    settings = MelConformerSettings(**SMALL | {"mask_vector": True} | changes)
    return MelConformerEncoder(settings, mel_conformer_card("student", settings), seed=1).eval()


class TestNetwork:
    @torch.inference_mode()
    @pytest.mark.parametrize("samples", [24_000, 25_333])
    def test_every_layer_equals_the_numpy_network(self, encoder, tensors, settings, noise, samples):
        samples_BT = torch.cat([noise(2, seed)[:, :samples] for seed in (1, 2)])
        layers_BLFD = encoder(samples_BT)
        assert layers_BLFD.shape == (2, 3, samples // 960, 128)
        for layers_LFD, samples_T in zip(layers_BLFD, samples_BT):
            for row, expected_FD in enumerate(reference_layers(samples_T, tensors, settings)):
                scale = np.abs(expected_FD).mean()
                assert scale > 0.1
                np.testing.assert_allclose(layers_LFD[row] / scale, expected_FD / scale, atol=1e-5, err_msg=f"{row}")

    @torch.inference_mode()
    def test_unequal_lengths_give_what_each_clip_gives_alone(self, encoder, noise):
        lengths = [24_000, 48_111, 3_000, 960, 700, 1]
        clips = [noise(3, seed)[0, :length] for seed, length in enumerate(lengths)]
        batch_BT = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
        batch_BT = torch.nn.functional.pad(batch_BT, (0, 5_000))
        together_BLFD = encoder(batch_BT, torch.tensor(lengths))
        assert together_BLFD.shape[2] == encoder.num_frames(batch_BT.shape[1])
        for layers_LFD, clip_T in zip(together_BLFD, clips):
            frames = encoder.num_frames(len(clip_T))
            torch.testing.assert_close(layers_LFD[:, :frames], encoder(clip_T[None])[0], atol=1e-5, rtol=1e-5)
            assert not layers_LFD[:, frames:].any()

    @torch.inference_mode()
    @pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 0.03), (torch.float16, 0.004)])
    def test_half_precision_is_near_single(self, encoder, noise, dtype, tolerance):
        samples_BT = noise(3)
        exact_BLFD = encoder(samples_BT)
        with torch.autocast("cpu", dtype=dtype):
            half_BLFD = encoder(samples_BT).float()
        for half_FD, exact_FD in zip(half_BLFD[0], exact_BLFD[0]):
            assert (half_FD - exact_FD).norm() < tolerance * exact_FD.norm()

    @pytest.mark.slow
    @torch.inference_mode()
    def test_five_minutes_are_encoded_without_a_matrix_of_frames_times_frames(self, encoder, noise):
        process, lengths = psutil.Process(), torch.tensor([7_200_000, 6_000_000])
        peaks = []
        for layer in encoder.conformer.layers:
            layer.register_forward_hook(lambda *_: peaks.append(process.memory_info().rss))
        samples_BT = noise(300).expand(2, -1)
        before = process.memory_info().rss
        layers_BLFD = encoder(samples_BT, lengths)
        assert layers_BLFD.shape == (2, 3, 7_500, 128) and torch.isfinite(layers_BLFD).all()
        # One matrix of two clips and two heads in single precision would be 900 MB.
        assert max(peaks) - before < 450e6

    @pytest.mark.parametrize(
        "samples, frames", [(1, 1), (959, 1), (960, 1), (1919, 1), (1920, 2), (720_000, 750), (8_640_000, 9_000)]
    )
    def test_frames_are_25_a_second(self, samples, frames):
        with torch.device("meta"):
            encoder = build_encoder("mert-v2-fullsong")
        assert encoder.num_frames(samples) == frames
        assert encoder.frame_lengths(torch.tensor([samples])).tolist() == [frames]
        assert (encoder.card.frame_rate, encoder.card.window_seconds) == (25, 360)

    @torch.inference_mode()
    def test_the_declared_number_of_frames_is_right_for_other_strides(self, noise):
        shape = ConvNextShape(6, (8, 12), (1, 1), (1, 3))
        network = ConvNextSubsampling(shape)
        assert shape.min_frames == 3 and shape.num_frames(2) < 1
        for frames in (3, 4, 5, 6, 7, 8, 20):
            assert network(torch.zeros(1, frames, 6)).shape[1] == shape.num_frames(frames)

    def test_rotations_are_those_of_the_published_table(self):
        frequencies = rotary_frequencies(64)
        expected = 1 / 10_000 ** (np.arange(0, 64, 2) / 64)
        assert frequencies.dtype == torch.float32 and frequencies.shape == (32,)
        np.testing.assert_allclose(frequencies, expected, rtol=1e-6)
        assert frequencies[0] == 1 and frequencies[16] == pytest.approx(0.01)
        cos, sin = rotary_cos_sin(9_000, 64, torch.device("cpu"))
        angles = (np.arange(9_000, dtype=np.float32)[:, None] * frequencies.numpy()).astype(np.float64)
        for table, function in ((cos, np.cos), (sin, np.sin)):
            assert table.shape == (9_000, 1, 64)
            np.testing.assert_allclose(table[:, 0, :32], function(angles), atol=1e-6)
            assert torch.equal(table[..., :32], table[..., 32:])

    def test_the_table_survives_a_network_built_on_the_meta_device(self, encoder):
        assert not [name for name in encoder.state_dict() if "inv_freq" in name]
        assert not [name for name, tensor in encoder.named_buffers() if tensor.is_meta]

    def test_a_seed_draws_the_same_weights(self):
        one, same, other = (build_encoder("mel-conformer-tiny", seed).state_dict() for seed in (1, 1, 2))
        assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
        assert not torch.equal(one["masked_spec_embed"], other["masked_spec_embed"])

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"num_heads": 3}, "dim 128 must be divisible by twice num_heads 3"),
            ({"kernel": 30}, "kernel 30 must be odd"),
            ({"conv_channels": [128, 64]}, "conv_channels, conv_depths and conv_strides must be of one length"),
            ({"conv_channels": [128, 128, 64]}, "the last of conv_channels, 64, must be dim 128"),
            ({"conv_strides": [1, 0, 2]}, "must be 1 or more"),
            ({"mel_std": 0}, "mel_std"),
        ],
    )
    def test_settings_that_do_not_fit_are_refused(self, change, message):
        with pytest.raises(UsageError, match=message):
            build_encoder("mel-conformer-tiny", changes=change)


class TestGlobalResponseNorm:
    def test_padding_changes_no_bit(self):
        norm = GlobalResponseNorm(5)
        torch.nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(1))
        x_BFC = torch.randn(1, 1_000, 5, generator=torch.Generator().manual_seed(2))
        padded_BFC = torch.cat([x_BFC, torch.full((1, 777, 5), 1e3)], 1)
        valid_BF = torch.arange(1_777)[None] < 1_000
        assert torch.equal(norm(padded_BFC, valid_BF)[:, :1_000], norm(x_BFC))

    def test_silence_has_a_gradient(self):
        norm = GlobalResponseNorm(3)
        x_BFC = torch.zeros(1, 4, 3, requires_grad=True)
        norm(x_BFC).sum().backward()
        assert torch.isfinite(x_BFC.grad).all() and torch.isfinite(norm.weight.grad).all()


class TestMaskedPrediction:
    """What pre-training needs, under the names of HuBERT's network."""

    @pytest.fixture(params=["mel-conformer", "musicfm"])
    def encoder(self, request):
        if request.param == "mel-conformer":
            return student()
        return build_encoder("musicfm-tiny", 1, {"mask_vector": True, "num_layers": 2, "num_heads": 2}).eval()

    @torch.inference_mode()
    def test_the_steps_give_what_forward_gives(self, encoder, noise):
        lengths = torch.tensor([24_000, 9_000])
        samples_BT = noise(1).repeat(2, 1)
        features_BFD, counts_B = encoder.conv_features(samples_BT, lengths), encoder.frame_lengths(lengths)
        assert torch.equal(encoder.encode_frames(features_BFD, counts_B), encoder(samples_BT, lengths))
        outputs = encoder.layer_outputs(features_BFD, counts_B)
        assert len(outputs) == 3 and torch.equal(outputs[0], features_BFD)

    @torch.inference_mode()
    def test_masked_frames_are_the_learned_vector(self, encoder, noise):
        features_BFD = encoder.conv_features(noise(1))
        mask_BF = torch.arange(25)[None] % 3 == 0
        first_BFD = encoder.layer_outputs(features_BFD, mask_BF=mask_BF)[0]
        assert torch.equal(first_BFD[~mask_BF], features_BFD[~mask_BF])
        assert (first_BFD[mask_BF] == encoder.masked_spec_embed).all()

    def test_without_a_mask_vector_masking_is_refused(self, noise):
        encoder = student(mask_vector=False)
        with pytest.raises(UsageError, match="student: has no mask vector.*mask_vector=true"):
            encoder.layer_outputs(torch.zeros(1, 5, 128), None, torch.ones(1, 5, dtype=torch.bool))

    def test_recomputed_activations_give_the_same_gradient(self, noise):
        gradients = []
        for recompute in (False, True):
            encoder = student(dropout=0.0).train()
            encoder.conformer.activation_checkpointing = recompute
            mask_BF = torch.arange(25)[None] % 2 == 0
            encoder.layer_outputs(encoder.conv_features(noise(1)), None, mask_BF)[-1].square().mean().backward()
            gradients.append({name: parameter.grad for name, parameter in encoder.named_parameters()})
        for name, gradient in gradients[0].items():
            assert gradient is not None and gradient.isfinite().all(), name
            torch.testing.assert_close(gradients[1][name], gradient)


class TestFile:
    def test_every_tensor_of_the_file_is_used_once(self, encoder, tensors):
        ours = list(encoder.state_dict().values())
        assert len(ours) == len(tensors)
        for name, tensor in tensors.items():
            assert sum(torch.equal(tensor, own) for own in ours if own.shape == tensor.shape) == 1, name

    @pytest.mark.parametrize("name", ["mert-v2-30s", "mert-v2-fullsong"])
    def test_the_published_size(self, name):
        card, settings = ENCODER.variants[name]
        with torch.device("meta"):
            network = build_encoder(name)
        shapes = official_shapes(settings)
        constants = sum(np.prod(shape) for key, shape in shapes.items() if key.startswith("feature_extractor"))
        official = sum(np.prod(shape) for shape in shapes.values()) - constants
        assert card.parameters == network.card.parameters == official == 632_295_808
        assert sorted(map(tuple, (tensor.shape for tensor in network.state_dict().values()))) == sorted(shapes.values())
        assert (card.license, card.commercial_use, card.is_gated) == ("CC-BY-NC-4.0", False, True)
        assert (card.num_layers, card.dim, card.sample_rate, card.frame_rate) == (24, 1024, 24_000, 25)

    def test_a_file_alone_and_no_transformers_give_the_same_encoder_as_its_folder(
        self, folder, encoder, noise, monkeypatch
    ):
        monkeypatch.setitem(sys.modules, "transformers", None)
        (folder / "config.json").unlink()
        again = convert_official("mert-v2-fullsong", folder / "model.safetensors").eval()
        assert torch.equal(again(noise(0.5)), encoder(noise(0.5)))

    def test_an_imported_encoder_can_be_saved_and_loaded(self, encoder, noise, tmp_path):
        save_pretrained(encoder, tmp_path / "saved")
        again = load(tmp_path / "saved")
        assert torch.equal(again.mel.bank_KM, encoder.mel.bank_KM)
        assert torch.equal(again(noise(0.5)), encoder(noise(0.5)))

    def test_half_precision_files_are_read(self, folder, tensors, small_variants):
        save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, folder / "model.safetensors")
        encoder = convert_official("mert-v2-30s", folder)
        assert all(tensor.dtype == torch.float32 for tensor in encoder.state_dict().values())

    @pytest.mark.parametrize("change, message", [("missing", "1 missing .*final_layer_norm"), ("extra", "1 unknown")])
    def test_missing_and_unknown_tensors_are_named(self, folder, tensors, small_variants, change, message):
        changed = dict(tensors)
        if change == "missing":
            del changed["layers.1.final_layer_norm.bias"]
        else:
            changed["head.weight"] = torch.ones(2)
        save_file(changed, folder / "model.safetensors")
        with pytest.raises(WeightsError, match=message):
            convert_official("mert-v2-30s", folder)

    def test_an_official_folder_of_any_size_is_loaded(self, folder, encoder, noise):
        again = load(folder)
        assert torch.equal(again(noise(0.5)), encoder(noise(0.5)))
        assert (again.card.name, again.card.license, again.card.num_layers) == ("MERT-v2-30s", "CC-BY-NC-4.0", 2)
        other = load(folder.rename(folder.parent / "another"))
        assert (other.card.name, other.card.license) == ("another", "")

    @pytest.mark.parametrize("key, value", [("layer_norm_eps", 1e-6), ("rotary_embedding_base", 500)])
    def test_a_network_of_another_kind_is_refused(self, folder, small_variants, key, value):
        (folder / "config.json").write_text(json.dumps(CONFIG | {key: value}))
        for read in (load, lambda folder: convert_official("mert-v2-30s", folder)):
            with pytest.raises(UsageError, match=f"config.json: {key} is {value}, and .* in a MERT-v2"):
                read(folder)

    @pytest.mark.parametrize("key, value, field", [("num_attention_heads", 4, "num_heads"), ("hop_length", 320, "hop")])
    def test_a_config_of_another_size_is_refused(self, folder, small_variants, key, value, field):
        (folder / "config.json").write_text(json.dumps(CONFIG | {key: value}))
        with pytest.raises(WeightsError, match=f"not mert-v2-30s: its {field} is {value} where mert-v2-30s has"):
            convert_official("mert-v2-30s", folder)

    @pytest.mark.parametrize("content, error", [("{", WeightsError), ('{"hidden_size": "many"}', UsageError)])
    def test_a_broken_config_is_named(self, folder, small_variants, content, error):
        (folder / "config.json").write_text(content)
        with pytest.raises(error, match=r"config.json: "):
            convert_official("mert-v2-30s", folder)

    def test_our_own_sizes_have_no_official_file(self, folder):
        with pytest.raises(WeightsError, match="no weights of mel-conformer-tiny are published"):
            convert_official("mel-conformer-tiny", folder)

    def test_without_the_file_the_message_says_how_to_get_it(self, monkeypatch, tmp_path):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(UsageError) as caught:
            fetch_official("mert-v2-30s")
        message = str(caught.value)
        assert "\n" not in message
        for part in ("https://huggingface.co/m-a-p/MERT-v2-30s", "CC-BY-NC-4.0", "HF_TOKEN", "--file"):
            assert part in message
