"""The convolutional front end: frame counts of the published stack, and norms against PyTorch's on each clip alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from carrara.core.errors import UsageError
from carrara.nn.conv.waveform_frontend import WaveformFrontend, num_conv_frames, receptive_field, standardize_waveform
from carrara.nn.linear import LARGEST_WEIGHT

KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)


def front(norm="group", bias=False, channels=8):
    module = WaveformFrontend(channels, KERNELS, STRIDES, norm, bias).eval()
    module.init_weights(torch.Generator().manual_seed(1))
    return module


def noise(*shape, seed=0):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("rate", "frames"),
    [(16000, (49, 149, 249, 255, 499, 1499)), (24000, (74, 224, 374, 383, 749, 2249))],
)
def test_frame_counts_are_those_of_the_published_table(rate, frames):
    seconds = (1, 3, 5, 5.12, 10, 30)
    assert tuple(num_conv_frames(int(rate * s), KERNELS, STRIDES) for s in seconds) == frames
    lengths = torch.tensor([int(rate * s) for s in seconds])
    assert num_conv_frames(lengths, KERNELS, STRIDES).tolist() == list(frames)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 4000), st.sampled_from(["group", "layer"]))
def test_the_output_has_the_predicted_number_of_frames(samples, norm):
    assert front(norm, channels=2)(noise(1, samples)).shape == (1, num_conv_frames(samples, KERNELS, STRIDES), 2)


def test_the_receptive_field_is_what_the_first_frame_depends_on():
    samples = noise(1, 2000).requires_grad_()
    front("layer")(samples)[0, 0].square().sum().backward()
    assert samples.grad[0].nonzero().max() + 1 == receptive_field(KERNELS, STRIDES) == 400


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("norm", ["group", "layer"])
def test_it_equals_a_plain_chain_of_torch_layers(norm, bias):
    module, x = front(norm, bias), noise(2, 3000)
    expected = x[:, None]
    for i, layer in enumerate(module.conv_layers):
        expected = torch.nn.functional.conv1d(expected, layer.conv.weight, layer.conv.bias, STRIDES[i])
        if norm == "group" and i == 0:
            mean, variance = expected.mean(2, keepdim=True), expected.var(2, unbiased=False, keepdim=True)
            expected = (expected - mean) / (variance + 1e-5).sqrt()
        elif norm == "layer":
            mean, variance = expected.mean(1, keepdim=True), expected.var(1, unbiased=False, keepdim=True)
            expected = (expected - mean) / (variance + 1e-5).sqrt()
        expected = 0.5 * expected * (1 + torch.erf(expected / 2**0.5))
    torch.testing.assert_close(module(x), expected.transpose(1, 2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_a_clip_has_the_same_features_in_a_batch_as_alone_for_any_padding_values(norm):
    module, lengths = front(norm), (3000, 1300, 401, 17)
    clips = [noise(length, seed=seed) for seed, length in enumerate(lengths)]
    batch = torch.full((4, 3000), 7.0)
    for row, clip in zip(batch, clips):
        row[: len(clip)] = clip
    together = module(batch, torch.tensor(lengths))
    for row, clip in zip(together, clips):
        alone = module(clip[None])[0]
        torch.testing.assert_close(row[: len(alone)], alone, atol=1e-5, rtol=1e-5)
        assert not row[len(alone) :].any()


def in_double(module, x_BT):
    """Return a float64 chain of torch's own layers over unpadded clips."""
    x_BCF = x_BT.double()[:, None]
    for layer in module.conv_layers:
        bias = None if layer.conv.bias is None else layer.conv.bias.double()
        x_BCF = torch.nn.functional.conv1d(x_BCF, layer.conv.weight.double(), bias, layer.conv.stride)
        if isinstance(layer.layer_norm, torch.nn.GroupNorm):
            weight, bias = layer.layer_norm.weight.double(), layer.layer_norm.bias.double()
            x_BCF = torch.nn.functional.group_norm(x_BCF, len(weight), weight, bias)
        elif layer.layer_norm is not None:
            weight, bias = layer.layer_norm.weight.double(), layer.layer_norm.bias.double()
            x_BCF = torch.nn.functional.layer_norm(x_BCF.mT, weight.shape, weight, bias).mT
        x_BCF = torch.nn.functional.gelu(x_BCF)
    return x_BCF.mT


@pytest.mark.parametrize("scale", [1e-4, 1.0, 100.0])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("norm", ["group", "layer"])
def test_encoding_in_tiles_equals_the_whole_in_float64(norm, bias, scale):
    module = front(norm, bias)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    lengths = [100_000, 300 * 320 + 79, 40_000, 500, 3]  # of 312, 299, 124, 1 and 1 frames; tiles have 125
    clips = [scale * noise(length, seed=seed) for seed, length in enumerate(lengths)]
    batch = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True, padding_value=9.0)
    with torch.no_grad():
        together = module(batch, torch.tensor(lengths))
        for row, clip in zip(together, clips):
            expected = in_double(module, torch.nn.functional.pad(clip, (0, max(0, 400 - len(clip))))[None])[0]
            torch.testing.assert_close(row[: len(expected)].double(), expected, atol=2e-5, rtol=1e-5)
            torch.testing.assert_close(module(clip[None])[0], row[: len(expected)], atol=1e-6, rtol=1e-5)
            assert not row[len(expected) :].any()
        published = module(batch, torch.tensor(lengths), "original")[2, :124]
        whole = in_double(module, torch.nn.functional.pad(clips[2], (0, 60_000))[None])[0, :124]
        torch.testing.assert_close(published.double(), whole, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("clip", [torch.zeros(16_000), torch.full((16_000,), 0.5), 0.5 + 1e-3 * noise(16_000)])
def test_group_norm_in_the_weights_is_as_exact_as_after_the_convolution(clip):
    module = front()
    expected = in_double(module, clip[None])
    errors = {}
    for name, gradients in (("folded", False), ("after", True)):
        with torch.set_grad_enabled(gradients):
            errors[name] = float((module(clip[None]).double() - expected).detach().abs().max())
    assert errors["folded"] <= 2 * errors["after"] + 1e-6


def test_padding_as_published_leaks_through_group_norm_only():
    for norm, leaks in (("group", True), ("layer", False)):
        module, clip = front(norm), noise(1, 1300)
        batch = torch.nn.functional.pad(clip, (0, 1700)).repeat(2, 1)
        padded = module(batch, torch.tensor([1300, 3000]), "original")[0, : num_conv_frames(1300, KERNELS, STRIDES)]
        assert bool((padded - module(clip)[0]).abs().max() > 1e-2) is leaks


def test_group_norm_in_half_precision_is_computed_in_float32():
    module, x = front(), 300 + noise(1, 16000)
    exact = module(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = module(x)
    assert rough.dtype == torch.bfloat16
    assert torch.isfinite(rough).all() and torch.isfinite(exact).all()


def test_standardised_clips_have_mean_0_and_variance_1_over_their_own_samples():
    x, lengths = 3 + 2 * noise(2, 1000), torch.tensor([1000, 600])
    out = standardize_waveform(x, lengths)
    for row, length in zip(out, lengths):
        assert abs(row[:length].mean()) < 1e-4
        assert row[:length].var(unbiased=False) == pytest.approx(1, abs=1e-3)
        assert not row[length:].any()
    torch.testing.assert_close(out[:1], standardize_waveform(x[:1]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("lengths", [None, torch.tensor([120_000])], ids=["whole", "padded"])
def test_standardized_waveforms_do_not_depend_on_the_number_of_threads(lengths):
    x = 0.3 + torch.randn(1, 120_000, generator=torch.Generator().manual_seed(0))
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(standardize_waveform(x, lengths))
    assert all(torch.equal(each, results[0]) for each in results[1:])
    double = (x.double() - x.double().mean()) / (x.double().var(correction=0) + 1e-7).sqrt()
    torch.testing.assert_close(results[0].double(), double, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layer", [1, 6])
@torch.no_grad()
def test_a_convolution_in_int8_is_numpys_of_windows_rounded_one_by_one(layer, bias):
    conv_layer = front(bias=bias).conv_layers[layer]
    conv, x_FC = conv_layer.conv, noise(20, 8, seed=layer)
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    conv_layer.quantize()
    weight_OCK = conv.weight.numpy()
    scale_O = np.abs(weight_OCK).max((1, 2)) / LARGEST_WEIGHT
    expected = []
    for start in range(0, 20 - kernel + 1, stride):
        window_CK = x_FC[start : start + kernel].numpy().T
        scale = np.abs(window_CK).max() / 127
        whole = np.round(weight_OCK / scale_O[:, None, None]) * np.round(window_CK / scale)
        expected.append(whole.sum((1, 2)) * scale * scale_O + (conv.bias.numpy() if bias else 0))
    np.testing.assert_allclose(conv_layer.convolve_int8(x_FC).numpy(), np.array(expected), atol=1e-5)
    exact = functional.conv1d(x_FC.T[None], conv.weight, conv.bias, stride)[0].T
    assert torch.linalg.norm(conv_layer.convolve_int8(x_FC) - exact) < 0.03 * torch.linalg.norm(exact)


@pytest.mark.parametrize("norm", ["group", "layer"])
@torch.no_grad()
def test_in_int8_a_clip_has_the_same_features_in_a_batch_as_alone_and_nearly_those_of_float32(norm):
    network, samples_BT = front(norm), noise(2, 60_000)
    exact = network(samples_BT)
    network.quantize()
    rounded = network(samples_BT, torch.tensor([60_000, 47_000]))
    assert 1e-4 < torch.linalg.norm(rounded[0] - exact[0]) / torch.linalg.norm(exact[0]) < 0.1
    alone = network(samples_BT[1:, :47_000])[0]
    torch.testing.assert_close(rounded[1, : len(alone)], alone, atol=1e-5, rtol=0)


def test_int8_is_refused_with_gradients():
    network = front()
    network.quantize()
    with pytest.raises(UsageError, match="int8 is for encoding on a CPU"):
        network(noise(1, 4000))
