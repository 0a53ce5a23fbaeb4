"""Cepstra against librosa, against transformers' Kaldi log-mel, and against Kaldi's definition written out in numpy."""

import librosa
import numpy as np
import pytest
import scipy.fft
import torch
from transformers import audio_utils

from carrara.core.errors import UsageError
from carrara.nn.spectral.framing import framing_preset
from carrara.nn.spectral.mfcc import MFCC, KaldiMFCC, compute_deltas

KINDS = ("tone", "chord", "noise", "silence", "game.wav", "game-1.mp3", "ending.ogg")


def mel_of(hertz):
    return 1127.0 * np.log(1.0 + hertz / 700.0)


def kaldi_by_hand(samples, rate, coefficients, hop):
    """Kaldi's MFCC, frame by frame and band by band in double precision."""
    width = rate * 25 // 1000
    size = 1 << (width - 1).bit_length()
    edges = np.linspace(mel_of(20.0), mel_of(rate / 2), 25)
    povey = np.array([(0.5 - 0.5 * np.cos(2 * np.pi * n / (width - 1))) ** 0.85 for n in range(width)])
    rows = []
    for start in range(0, len(samples) - width + 1, hop):
        frame = samples[start : start + width].astype(np.float64)
        frame = frame - frame.mean()
        frame = np.array([frame[n] - 0.97 * frame[max(n - 1, 0)] for n in range(width)])
        power = np.abs(np.fft.fft(frame * povey, size)) ** 2
        energies = []
        for left, centre, right in zip(edges, edges[1:], edges[2:]):
            energy = 0.0
            for bin in range(size // 2):
                mel = mel_of(bin * rate / size)
                if left < mel < right:
                    energy += power[bin] * min((mel - left) / (centre - left), (right - mel) / (right - centre))
            energies.append(np.log(max(energy, np.finfo(np.float32).eps)))
        cosines = [
            sum(energy * np.cos(np.pi * order * (band + 0.5) / 23) for band, energy in enumerate(energies))
            for order in range(coefficients)
        ]
        scales = [np.sqrt((1 if order == 0 else 2) / 23) for order in range(coefficients)]
        lifts = [1 + 11 * np.sin(np.pi * order / 22) for order in range(coefficients)]
        rows.append(np.array(cosines) * scales * lifts)
    return np.array(rows)


def slopes_by_hand(rows):
    last = len(rows) - 1
    at = lambda frame: rows[min(max(frame, 0), last)]  # noqa: E731
    return np.array([sum(k * (at(f + k) - at(f - k)) for k in (1, 2)) / 10 for f in range(len(rows))])


@pytest.mark.parametrize("kind", ["chord", "noise", "silence", "game.wav"])
@pytest.mark.parametrize("rate, coefficients, hop", [(16_000, 13, 160), (16_000, 20, 320), (24_000, 13, 240)])
def test_kaldi_cepstra_are_those_of_the_definition(sound, kind, rate, coefficients, hop):
    samples = sound(kind, rate)[: rate // 4]
    ours = KaldiMFCC(rate, coefficients, hop)(torch.from_numpy(samples)[None])[0].numpy()
    expected = kaldi_by_hand(samples, rate, coefficients, hop)
    first = slopes_by_hand(expected)
    whole = np.concatenate([expected, first, slopes_by_hand(first)], axis=1)
    assert ours.shape == whole.shape == (1 + (len(samples) - rate // 40) // hop, 3 * coefficients)
    np.testing.assert_allclose(ours, whole, atol=5e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_kaldi_cepstra_are_those_of_transformers_log_mel(sound, kind):
    samples = sound(kind, 16_000)
    filters = audio_utils.mel_filter_bank(
        257, 23, 20.0, 8000.0, 16_000, mel_scale="kaldi", triangularize_in_mel_space=True
    )
    log_mel = audio_utils.spectrogram(
        samples.astype(np.float64), audio_utils.window_function(400, "povey", periodic=False), 400, 160, 512,
        power=2.0, center=False, preemphasis=0.97, mel_filters=filters, mel_floor=np.finfo(np.float32).eps,
        log_mel="log", remove_dc_offset=True, dtype=np.float64,
    )  # fmt: skip
    lifter = 1 + 11 * np.sin(np.pi * np.arange(13) / 22)
    expected = scipy.fft.dct(log_mel.T, norm="ortho")[:, :13] * lifter
    ours = KaldiMFCC()(torch.from_numpy(samples)[None])[0, :, :13].numpy()
    assert ours.shape == expected.shape
    # A pure tone leaves bands at the rounding of single precision, where logarithms differ more.
    np.testing.assert_allclose(ours, expected, atol=0.3 if kind == "tone" else 2e-2)


@pytest.mark.parametrize("kind", [*KINDS, "one sample", "short"])
def test_librosa_cepstra_are_those_of_librosa(sound, kind):
    samples = sound(kind, 22_050)
    ours = MFCC()(torch.from_numpy(samples)[None])[0].numpy()
    np.testing.assert_allclose(ours, librosa.feature.mfcc(y=samples, sr=22_050).T, atol=5e-3)


def test_reflecting_edges_change_only_the_frames_that_overlap_them(sound):
    samples = sound("ending.ogg", 22_050)
    ours = MFCC(framing=framing_preset("librosa-0.8"))(torch.from_numpy(samples)[None])[0].numpy()
    power = librosa.feature.melspectrogram(y=samples, sr=22_050, pad_mode="reflect")
    np.testing.assert_allclose(ours, librosa.feature.mfcc(S=librosa.power_to_db(power)).T, atol=5e-3)
    zeros = MFCC()(torch.from_numpy(samples)[None])[0].numpy()
    np.testing.assert_allclose(ours[2:-3], zeros[2:-3], atol=1e-3)
    assert np.abs(ours - zeros).max() > 0.1


@pytest.mark.parametrize("samples", [1, 2, 399, 400])
def test_less_than_a_window_is_one_kaldi_frame(samples):
    cepstra = KaldiMFCC()(torch.full((2, samples), 0.5))
    assert cepstra.shape == (2, 1, 39)
    assert torch.isfinite(cepstra).all()
    assert not compute_deltas(cepstra).any()


def test_autocast_changes_nothing(sound, same_under_autocast):
    samples = torch.from_numpy(sound("noise", 16_000))[None]
    same_under_autocast(KaldiMFCC(), samples)
    same_under_autocast(MFCC(16_000), samples)


def test_more_coefficients_than_bands_are_refused():
    with pytest.raises(UsageError, match="at most 23 cepstral coefficients, not 24"):
        KaldiMFCC(coefficients=24)
