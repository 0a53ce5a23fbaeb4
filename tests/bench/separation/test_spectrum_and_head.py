"""The spectrogram is torch's and can be inverted; the head is that of [yuan2023thesis], one for each stem."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from carrara.bench.separation import spectrum
from carrara.bench.separation.head import MaskHead, MaskHeadShape, initial_heads


def test_the_spectrogram_equals_torchs_and_is_inverted():
    samples = torch.randn(2, 3, 20 * 1024, generator=torch.Generator().manual_seed(0))
    actual = spectrum.stft(samples)
    assert actual.shape == (2, 3, spectrum.num_frames(20 * 1024), 2049)
    window = torch.hann_window(4096)
    expected = torch.stft(samples.flatten(0, 1), 4096, 1024, window=window, return_complex=True)
    assert torch.allclose(actual.flatten(0, 1).transpose(1, 2), expected, atol=1e-4)
    assert torch.allclose(spectrum.istft(actual, 20 * 1024), samples, atol=1e-5)


def test_the_inverse_of_any_spectrogram_equals_torchs():
    rng = torch.Generator().manual_seed(1)
    spectra = torch.randn(3, 9, 2049, dtype=torch.complex64, generator=rng)
    spectra[..., 0] = spectra[..., 0].real + 0j
    spectra[..., -1] = spectra[..., -1].real + 0j
    expected = torch.istft(spectra.transpose(1, 2), 4096, 1024, window=torch.hann_window(4096), length=8 * 1024)
    assert torch.allclose(spectrum.istft(spectra, 8 * 1024), expected, atol=1e-6)


def test_features_are_interpolated_to_the_frames_linearly():
    times = np.arange(30) / 50
    before, after, weight = spectrum.interpolation_weights(times, 20)
    values = np.random.default_rng(0).standard_normal(30)
    actual = values[before] * (1 - weight) + values[after] * weight
    assert np.allclose(actual, np.interp(np.arange(20) * 1024 / 44100, times, values), atol=1e-6)
    assert [part.tolist() for part in spectrum.interpolation_weights(np.zeros(1), 3)] == [[0] * 3, [0] * 3, [0.0] * 3]


def test_a_head_has_three_linear_and_three_bidirectional_layers():
    head = MaskHead(MaskHeadShape(dim=768, hidden=512, bins=2049, num_summed=13))
    linear = [layer for layer in head.modules() if isinstance(layer, torch.nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(768, 512), (1024, 512), (512, 2049)]
    recurrent = [layer for layer in head.modules() if isinstance(layer, torch.nn.LSTM)]
    assert [(layer.input_size, 2 * layer.hidden_size, layer.bidirectional) for layer in recurrent] == [
        (512, 512, True)
    ] * 3
    lstm = 3 * 2 * 4 * 256 * (512 + 256 + 2)
    norms = 2 * (512 + 512 + 2049)
    assert sum(p.numel() for p in head.parameters()) == 768 * 512 + 1024 * 512 + 512 * 2049 + lstm + norms + 13


def test_a_head_equals_its_layers_written_out():
    head = MaskHead(MaskHeadShape(dim=6, hidden=8, bins=5)).eval()
    for norm in (head.inner_norm, head.middle_norm, head.outer_norm):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 7, 6)

    def normed(values, norm):
        scaled = (values - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
        return scaled * norm.weight + norm.bias

    with torch.no_grad():
        squeezed = torch.tanh(normed(x @ head.inner.weight.T, head.inner_norm))
        outputs = squeezed
        for layer in head.recurrent:
            outputs = layer(outputs)[0]
        hidden = F.relu(normed(torch.cat([squeezed, outputs], -1) @ head.middle.weight.T, head.middle_norm))
        mask = F.relu(normed(hidden @ head.outer.weight.T, head.outer_norm))
        assert torch.allclose(head(x), mask, atol=1e-5)


def test_a_mask_depends_on_later_frames_too():
    torch.manual_seed(0)
    head = MaskHead(MaskHeadShape(dim=6, hidden=8, bins=5)).eval()
    x = torch.randn(1, 7, 6)
    changed = x.clone()
    changed[:, -1] += 1
    with torch.no_grad():
        assert not torch.allclose(head(x)[:, 0], head(changed)[:, 0])


def test_a_sum_with_all_its_weight_on_one_layer_is_that_layer():
    torch.manual_seed(0)
    summing = MaskHead(MaskHeadShape(dim=4, hidden=8, bins=5, num_summed=3)).eval()
    summing.mix.data = torch.tensor([-40.0, 40.0, -40.0])
    layers = torch.randn(3, 2, 6, 4)
    alone = MaskHead(MaskHeadShape(dim=4, hidden=8, bins=5)).eval()
    alone.load_state_dict({name: value for name, value in summing.state_dict().items() if name != "mix"})
    with torch.no_grad():
        assert torch.allclose(summing(layers), alone(layers[1]), atol=1e-6)


def test_each_stems_head_is_drawn_from_the_seed_and_the_global_generator_goes_on():
    shape = MaskHeadShape(dim=4, hidden=8, bins=5)
    torch.manual_seed(5)
    first = initial_heads(shape, 2, seed=1)
    following = torch.rand(1)
    torch.manual_seed(5)
    assert following == torch.rand(1)
    again = initial_heads(shape, 2, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters()))
    assert not torch.equal(first[0].inner.weight, first[1].inner.weight)


def test_dropped_units_come_from_the_given_draws_in_training_only():
    head = MaskHead(MaskHeadShape(dim=4, hidden=8, bins=5, dropout=0.5))
    x = torch.randn(2, 6, 4)
    mask, same, other = (head(x, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(mask, same) and not torch.equal(mask, other)
    head.eval()
    assert torch.equal(head(x, torch.Generator().manual_seed(0)), head(x))


@pytest.mark.parametrize("seconds", [6.0, 1.0])
def test_windows_are_whole_frames(levels, seconds):
    from carrara.bench.separation.window_encoder import WindowEncoder

    encoder = WindowEncoder(levels(), seconds, "cpu")
    assert encoder.window_format.window % 1024 == 0 and abs(encoder.window_format.window / 44100 - seconds) < 0.02
