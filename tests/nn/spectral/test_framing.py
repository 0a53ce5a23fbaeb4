"""Frames and power spectra against librosa and against a loop that cuts every frame by hand."""

import librosa
import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from carrara.core.errors import UsageError
from carrara.nn.spectral import framing
from carrara.nn.spectral.framing import Framing, Spectrum, framing_preset

KINDS = ("tone", "chord", "noise", "silence", "one sample", "short", "game.wav", "ending.ogg")


def tensor(samples):
    return torch.from_numpy(samples)[None]


@pytest.mark.parametrize("name, mode", [("librosa", "constant"), ("librosa-0.8", "reflect"), ("musicnn", "reflect")])
@pytest.mark.parametrize("kind", KINDS)
def test_power_is_that_of_librosa(sound, kind, name, mode):
    samples, known = sound(kind, 16_000), framing_preset(name)
    ours = Spectrum(known)(tensor(samples))[0].numpy()
    padded = np.pad(samples, known.fft_size // 2, mode=mode)
    theirs = librosa.stft(padded, n_fft=known.fft_size, hop_length=known.hop, center=False)
    power = np.abs(theirs.T) ** 2
    assert ours.shape == power.shape
    np.testing.assert_allclose(ours, power, atol=1e-6 * max(power.max(), 1e-9), rtol=1e-3)


@pytest.mark.parametrize("name, frames", [("essentia", 625), ("maest-torch", 626), ("maest-hf", 626), ("musicnn", 626)])
def test_ten_seconds_give_the_published_number_of_frames(name, frames):
    known = framing_preset(name)
    assert known.num_frames(160_000) == frames
    assert framing.split_frames(torch.zeros(2, 160_000), known).shape == (2, frames, 512)


def test_essentia_differs_from_maest_hf_only_by_its_window_and_its_last_frame(sound):
    samples = tensor(sound("noise", 16_000))
    essentia = Spectrum(framing_preset("essentia"))(samples)
    symmetric = scipy.signal.get_window("hann", 512, fftbins=False)
    padded = np.pad(samples[0].numpy(), 256)
    by_hand = [np.abs(np.fft.rfft(padded[i : i + 512] * symmetric)) ** 2 for i in range(0, 32_000, 256)]
    np.testing.assert_allclose(essentia[0].numpy(), by_hand, rtol=1e-3, atol=1e-4)
    periodic = Spectrum(framing_preset("maest-hf"))(samples)
    assert periodic.shape[1] == essentia.shape[1] + 1
    assert not torch.allclose(periodic[:, :-1], essentia, rtol=1e-3, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 40), left=st.integers(0, 90), right=st.integers(0, 90))
def test_repeated_reflection_equals_numpys(length, left, right):
    samples = np.arange(length, dtype=np.float32)
    ours = framing.pad_edges(tensor(samples), left, right, "reflect")[0].numpy()
    np.testing.assert_array_equal(ours, np.pad(samples, (left, right), mode="reflect"))


@settings(max_examples=80, deadline=None)
@given(
    samples=st.integers(1, 400),
    window=st.integers(1, 60),
    hop=st.integers(1, 70),
    more=st.integers(0, 20),
    padding=st.sampled_from(["zeros", "none"]),
    last=st.booleans(),
)
def test_frames_equal_those_of_a_loop(samples, window, hop, more, padding, last):
    known = Framing(window, hop, window + more, padding=padding, keep_last=last)
    clip = np.random.default_rng(samples).standard_normal(samples).astype(np.float32)
    got = framing.split_frames(tensor(clip), known)[0].numpy()
    first = 0 if padding == "none" else more // 2 - (window + more) // 2
    for number, row in enumerate(got):
        places = np.arange(window) + first + number * hop
        expected = [clip[place] if 0 <= place < samples else 0.0 for place in places]
        np.testing.assert_array_equal(row, np.array(expected, dtype=np.float32))
    assert len(got) == known.num_frames(samples) >= 1
    if padding == "none" and samples >= window:
        assert (len(got) - 1) * hop + window <= samples < len(got) * hop + window


def test_long_clips_in_blocks_equal_one_block(sound, monkeypatch):
    samples, spectrum = tensor(sound("chord", 16_000)), Spectrum(framing_preset("maest-hf"))
    whole = spectrum(samples)
    monkeypatch.setattr(framing, "CPU_BLOCK", 7 * 512)
    torch.testing.assert_close(spectrum(samples), whole)


def test_autocast_changes_nothing(sound, same_under_autocast):
    same_under_autocast(Spectrum(framing_preset("maest-hf")), tensor(sound("noise", 16_000)))


@pytest.mark.parametrize(
    "wrong, says",
    [
        (lambda: framing_preset("esentia"), "Did you mean 'essentia'"),
        (lambda: Framing(512, 0, 512), "hop of 0"),
        (lambda: Framing(600, 100, 512), "window of 600"),
        (lambda: Spectrum(framing_preset("librosa"))(torch.zeros(1, 0)), "no samples"),
    ],
)
def test_invalid_framings_are_refused(wrong, says):
    with pytest.raises(UsageError, match=says):
        wrong()
