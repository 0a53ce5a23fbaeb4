"""The spectrogram is torch's and turns back into sound; the head is the thesis's and each stem's own."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from carrara.bench.separation import spectrum
from carrara.bench.separation.head import Head, HeadShape, drawn


def test_the_spectrogram_turns_back_into_the_sound_as_torch_says():
    samples = torch.randn(2, 3, 20 * 1024, generator=torch.Generator().manual_seed(0))
    found = spectrum.spectrum(samples)
    assert found.shape == (2, 3, spectrum.frames(20 * 1024), 2049)
    window = torch.hann_window(4096)
    theirs = torch.stft(samples.flatten(0, 1), 4096, 1024, window=window, return_complex=True)
    assert torch.allclose(found.flatten(0, 1).transpose(1, 2), theirs, atol=1e-4)
    assert torch.allclose(spectrum.sound(found, 20 * 1024), samples, atol=1e-5)


def test_any_spectrogram_sounds_as_torchs_inverse_of_it():
    draw = torch.Generator().manual_seed(1)
    made = torch.randn(3, 9, 2049, dtype=torch.complex64, generator=draw)
    made[..., 0] = made[..., 0].real + 0j
    made[..., -1] = made[..., -1].real + 0j
    theirs = torch.istft(made.transpose(1, 2), 4096, 1024, window=torch.hann_window(4096), length=8 * 1024)
    assert torch.allclose(spectrum.sound(made, 8 * 1024), theirs, atol=1e-6)


def test_features_are_interpolated_to_the_frames_linearly():
    times = np.arange(30) / 50
    before, after, share = spectrum.between(times, 20)
    values = np.random.default_rng(0).standard_normal(30)
    found = values[before] * (1 - share) + values[after] * share
    assert np.allclose(found, np.interp(np.arange(20) * 1024 / 44100, times, values), atol=1e-6)
    assert [part.tolist() for part in spectrum.between(np.zeros(1), 3)] == [[0] * 3, [0] * 3, [0.0] * 3]


def test_a_head_has_three_linear_and_three_bidirectional_layers():
    head = Head(HeadShape(width=768, hidden=512, bins=2049, mixed=13))
    linear = [layer for layer in head.modules() if isinstance(layer, torch.nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(768, 512), (1024, 512), (512, 2049)]
    recurrent = [layer for layer in head.modules() if isinstance(layer, torch.nn.LSTM)]
    assert [(layer.input_size, 2 * layer.hidden_size, layer.bidirectional) for layer in recurrent] == [
        (512, 512, True)
    ] * 3
    lstm = 3 * 2 * 4 * 256 * (512 + 256 + 2)
    norms = 2 * (512 + 512 + 2049)
    assert sum(p.numel() for p in head.parameters()) == 768 * 512 + 1024 * 512 + 512 * 2049 + lstm + norms + 13


def test_a_head_answers_as_its_layers_written_out():
    head = Head(HeadShape(width=6, hidden=8, bins=5)).eval()
    for norm in (head.inner_norm, head.middle_norm, head.outer_norm):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 7, 6)

    def normed(values, norm):
        scaled = (values - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
        return scaled * norm.weight + norm.bias

    with torch.no_grad():
        squeezed = torch.tanh(normed(x @ head.inner.weight.T, head.inner_norm))
        heard = squeezed
        for layer in head.recurrent:
            heard = layer(heard)[0]
        joined = F.relu(normed(torch.cat([squeezed, heard], -1) @ head.middle.weight.T, head.middle_norm))
        mask = F.relu(normed(joined @ head.outer.weight.T, head.outer_norm))
        assert torch.allclose(head(x), mask, atol=1e-5)


def test_the_future_is_heard_too():
    head = Head(HeadShape(width=6, hidden=8, bins=5)).eval()
    x = torch.randn(1, 7, 6)
    changed = x.clone()
    changed[:, -1] += 1
    with torch.no_grad():
        assert not torch.allclose(head(x)[:, 0], head(changed)[:, 0])


def test_a_sum_with_all_its_weight_on_one_layer_hears_that_layer():
    torch.manual_seed(0)
    summing = Head(HeadShape(width=4, hidden=8, bins=5, mixed=3)).eval()
    summing.mix.data = torch.tensor([-40.0, 40.0, -40.0])
    layers = torch.randn(3, 2, 6, 4)
    alone = Head(HeadShape(width=4, hidden=8, bins=5)).eval()
    alone.load_state_dict({name: value for name, value in summing.state_dict().items() if name != "mix"})
    with torch.no_grad():
        assert torch.allclose(summing(layers), alone(layers[1]), atol=1e-6)


def test_each_stems_head_is_drawn_from_the_seed_and_the_global_draws_go_on():
    shape = HeadShape(width=4, hidden=8, bins=5)
    torch.manual_seed(5)
    first = drawn(shape, 2, seed=1)
    following = torch.rand(1)
    torch.manual_seed(5)
    assert following == torch.rand(1)
    again = drawn(shape, 2, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters()))
    assert not torch.equal(first[0].inner.weight, first[1].inner.weight)


def test_dropped_units_come_from_the_given_draws_in_training_only():
    head = Head(HeadShape(width=4, hidden=8, bins=5, dropout=0.5))
    x = torch.randn(2, 6, 4)
    one, same, other = (head(x, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    head.eval()
    assert torch.equal(head(x, torch.Generator().manual_seed(0)), head(x))


@pytest.mark.parametrize("seconds", [6.0, 1.0])
def test_windows_are_whole_frames(levels, seconds):
    from carrara.bench.separation.frozen_encoder import Ears

    ears = Ears(levels(), seconds, "cpu")
    assert ears.reading.window % 1024 == 0 and abs(ears.reading.window / 44100 - seconds) < 0.02
