"""The encoder of several spectra against librosa and NumPy."""

import librosa
import numpy as np
import pytest
import torch

from carrara.core.errors import UsageError
from carrara.encoders._hub.load import build_encoder, load, save_pretrained

RATE = 24_000


@pytest.fixture(scope="module")
def encoder():
    return build_encoder("cqt-mel-tiny").eval()


def test_the_mel_values_and_their_changes_are_librosas(encoder):
    rng = np.random.default_rng(0)
    samples = (0.1 * rng.normal(size=2 * RATE) * np.linspace(0.05, 1, 2 * RATE)).astype(np.float32)
    power = librosa.feature.melspectrogram(
        y=samples, sr=RATE, n_fft=1024, hop_length=480, n_mels=64, htk=True, norm=None, pad_mode="reflect"
    )[:, :100]
    decibels = 10 * np.log10(power)
    mel = (decibels - decibels.max()).clip(-80) / 20
    change = np.abs(np.diff(mel, axis=1, prepend=mel[:, :1]))
    values = encoder.spectra(torch.from_numpy(samples)[None])[0].numpy()
    assert values.shape == (50, 458)
    np.testing.assert_allclose(values[:, 204:268], mel.reshape(64, 50, 2).mean(2).T, atol=2e-3)
    np.testing.assert_allclose(values[:, 382:446], change.reshape(64, 50, 2).mean(2).T, atol=2e-3)


def test_a_tone_is_loudest_at_its_bin_and_pitch_class(encoder):
    for midi in (48, 57, 69, 88):
        hertz = 440 * 2 ** ((midi - 69) / 12)
        samples = 0.3 * torch.sin(2 * np.pi * hertz * torch.arange(2 * RATE) / RATE)
        middle = encoder.spectra(samples[None])[0, 25]
        assert int(middle[:204].argmax()) == 2 * (midi - 24)
        assert int(middle[268:280].argmax()) == midi % 12 and float(middle[268:280].max()) == pytest.approx(1, abs=0.01)
        assert float(middle[:204].max()) == pytest.approx(0, abs=0.05)  # decibels below the clip's peak


def test_gain_changes_nothing(encoder):
    samples = 0.1 * torch.randn(1, RATE, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(encoder(samples), encoder(0.25 * samples), atol=2e-3, rtol=1e-3)


def test_silence_and_the_shortest_clips_are_finite(encoder):
    assert bool(encoder(torch.zeros(1, RATE)).isfinite().all())
    for samples in (1, 500, 1439, 1921):
        features = encoder(0.1 * torch.ones(1, samples))
        assert features.shape == (1, 4, encoder.num_frames(samples), 384) and bool(features.isfinite().all())


def test_layer_0_keeps_angles_of_what_the_projection_keeps(encoder):
    weight = encoder.project.weight.detach()
    torch.testing.assert_close(weight @ weight.T, torch.eye(384), atol=1e-4, rtol=0)
    values = encoder.values(0.1 * torch.randn(1, RATE, generator=torch.Generator().manual_seed(2)))
    view = torch.cat([values[..., :268], 4 * values[..., 268:280], values[..., 280:]], -1)
    outputs = encoder.layer_outputs(values)
    torch.testing.assert_close(outputs[0], view @ weight.T)
    torch.testing.assert_close(outputs[1], encoder.layers[0](values @ weight.T))


def test_a_layer_is_attention_and_a_convolution_written_in_numpy(encoder):
    layer, frames = encoder.layers[1], 11
    x = np.random.default_rng(3).normal(size=(frames, 384))
    weights = {name: tensor.detach().double().numpy() for name, tensor in layer.state_dict().items()}

    def norm(values, name):
        centred = values - values.mean(-1, keepdims=True)
        scaled = centred / np.sqrt(values.var(-1, keepdims=True) + 1e-5)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(values, name):
        return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    query, key, value = linear(norm(x, "attention_norm"), "qkv").reshape(frames, 3, 4, 24).transpose(1, 2, 0, 3)
    logits = query @ key.transpose(0, 2, 1) / np.sqrt(24)
    attention = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = x + linear((attention @ value).transpose(1, 0, 2).reshape(frames, 96), "attention_out")
    padded = np.pad(norm(expected, "conv_norm"), ((4, 4), (0, 0)))
    kernel = weights["conv.weight"][:, 0].T  # [9, D]
    convolved = np.stack([(padded[frame : frame + 9] * kernel).sum(0) for frame in range(frames)])
    hidden = linear(convolved + weights["conv.bias"], "ffn_in")
    erf = torch.special.erf(torch.from_numpy(hidden / np.sqrt(2))).numpy()
    expected = expected + linear(hidden * 0.5 * (1 + erf), "ffn_out")
    ours = layer(torch.from_numpy(x).float()[None])[0].detach().numpy()
    np.testing.assert_allclose(ours, expected, atol=2e-4)


def test_input_statistics_standardise_the_values(encoder):
    crops = 0.1 * torch.randn(6, 2 * RATE, generator=torch.Generator().manual_seed(4)) * torch.rand(6, 1)
    statistics = encoder.input_statistics(crops.split(2))
    own = build_encoder("cqt-mel-tiny", 0, {"chroma_weight": 1.0})
    for name, value in statistics.items():
        own.get_buffer(name).copy_(value)
    values = own.values(crops).flatten(0, 1)
    varied = statistics["values_std"] > 2e-3
    torch.testing.assert_close(values.mean(0)[varied], torch.zeros(int(varied.sum())), atol=2e-2, rtol=0)
    torch.testing.assert_close(values.std(0)[varied], torch.ones(int(varied.sum())), atol=5e-2, rtol=0)


@pytest.mark.parametrize("sizes, problem", [({"hidden": 100}, "divisible"), ({"kernel": 8}, "odd")])
def test_sizes_that_do_not_fit_are_refused(sizes, problem):
    with pytest.raises(UsageError, match=problem):
        build_encoder("cqt-mel-tiny", 0, sizes)


def test_a_note_that_dies_away_has_the_same_features_with_any_number_of_threads(encoder):
    time = torch.arange(48_000) / 24_000
    note = (torch.sin(2 * torch.pi * 440 * time) * torch.exp(-8 * time) * (time < 1.2))[None]
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        with torch.no_grad():
            results.append(encoder(note))
    for other in results[1:]:
        # In single precision the chroma of the silence made features differ by 5.6 [docs/intervals].
        torch.testing.assert_close(other, results[0], atol=1e-4, rtol=0)


def test_a_saved_encoder_states_the_version_of_its_output(tmp_path):
    network = build_encoder("cqt-mel-tiny")
    network.card = network.card.model_copy(update={"output_version": 1})
    save_pretrained(network, tmp_path / "e")
    assert load(tmp_path / "e").card.output_version == 2
