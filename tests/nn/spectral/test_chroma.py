"""Chroma and the tuning estimate against librosa, and the folding against a sum over overlaps."""

import librosa
import numpy as np
import pytest
import torch

from carrara.core.errors import UsageError
from carrara.nn.spectral.chroma import ChromaSTFT, TunedChroma, chroma_filter_bank, fold_matrix, fold_to_chroma
from carrara.nn.spectral.cqt import CQT
from carrara.nn.spectral.framing import Spectrum, framing_preset
from carrara.nn.spectral.pitch_tuning import estimate_tuning

REAL = ("game.wav", "game-1.mp3", "ending.ogg")
KINDS = ("tone", "chord", "noise", "silence", "one sample", "short", *REAL)
# Half of the longest kernel at 22,050 Hz, in hops of 512.
EDGE = 34
LOUD = ("tone", "chord", "noise", *REAL)


def tensor(samples):
    return torch.from_numpy(samples)[None]


@pytest.mark.slow
@pytest.mark.parametrize("rate, size, chroma", [(16_000, 512, 264), (22_050, 2048, 12), (24_000, 4096, 36)])
def test_banks_are_those_of_librosa(rate, size, chroma):
    reference = librosa.filters.chroma(sr=rate, n_fft=size, tuning=0, n_chroma=chroma, dtype=np.float64)
    np.testing.assert_allclose(chroma_filter_bank(rate, size, chroma).numpy(), reference.T, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_264_chroma_are_those_of_librosa(sound, kind):
    samples = sound(kind, 16_000)
    reference = librosa.feature.chroma_stft(
        y=samples, sr=16_000, n_chroma=264, n_fft=512, win_length=400, hop_length=320, tuning=0, norm=np.inf
    )
    ours = ChromaSTFT()(tensor(samples))[0].numpy()
    assert ours.shape == reference.T.shape
    np.testing.assert_allclose(ours, reference.T, atol=1e-4)


def test_five_seconds_at_16_khz_give_251_frames():
    assert ChromaSTFT()(torch.zeros(1, 80_000)).shape == (1, 251, 264)


@pytest.mark.parametrize("bins, octave, chroma", [(252, 36, 12), (84, 12, 12), (252, 36, 36), (100, 36, 12)])
def test_odd_foldings_are_those_of_librosa(bins, octave, chroma):
    ours = fold_matrix(bins, octave, chroma, 32.7)
    reference = librosa.filters.cq_to_chroma(bins, bins_per_octave=octave, n_chroma=chroma, fmin=32.7)
    np.testing.assert_allclose(ours.numpy(), reference.T, atol=1e-6)


@pytest.mark.parametrize("chroma", [12, 36])
def test_the_target_cqt_folds_by_overlap(chroma):
    weights = fold_matrix(336, 48, chroma, 32.7).double()
    fine = 10_080
    owner = (np.round(np.arange(fine) * chroma / fine + 1e-9).astype(int)) % chroma
    for bin in (0, 1, 5, 24, 47, 330):
        edge = (bin - 0.5) * fine / 48
        covered = owner[np.arange(round(edge), round(edge + fine / 48)) % fine]
        expected = np.bincount(covered, minlength=chroma) * 48 / fine
        np.testing.assert_allclose(weights[bin].numpy(), expected, atol=0.02)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(336, dtype=torch.float64), atol=1e-6, rtol=0)


def test_a_scale_has_ascending_pitch_classes():
    time = torch.arange(8000) / 16_000
    notes = torch.stack([torch.sin(2 * torch.pi * 440 * 2 ** ((note - 9) / 12) * time) for note in range(12)])
    cqt = CQT(16_000, 320)(notes)
    assert fold_to_chroma(cqt, 48)[:, 12].argmax(dim=-1).tolist() == list(range(12))
    assert fold_to_chroma(cqt, 48, 36)[:, 12].argmax(dim=-1).tolist() == list(range(0, 36, 3))
    assert fold_to_chroma(cqt[..., 12:], 48, lowest=32.7 * 2 ** (3 / 12))[:, 12].argmax(dim=-1).tolist() == list(
        range(12)
    )


@pytest.mark.parametrize("kind, detune", [("sines", 0.0), ("sines", 0.21), ("sines", -0.37), *((k, 0.0) for k in LOUD)])
def test_tuning_is_that_of_librosa(sound, kind, detune):
    time = np.arange(44_100) / 22_050
    sines = sum(np.sin(2 * np.pi * 440 * 2 ** ((note + detune / 3) / 12) * time) for note in (-9, -5, -2, 3))
    samples = (sines if kind == "sines" else sound(kind, 22_050)).astype(np.float32)
    power = np.abs(librosa.stft(samples, pad_mode="reflect"))
    ours = estimate_tuning(torch.from_numpy(samples), 22_050, 36, Spectrum(framing_preset("librosa-0.8")))
    assert ours == pytest.approx(librosa.estimate_tuning(S=power, sr=22_050, bins_per_octave=36), abs=1e-9)
    if kind == "sines":
        # The parabola through a Hann peak is itself a few hundredths of a semitone off.
        assert ours == pytest.approx(detune, abs=0.15)


@pytest.mark.parametrize("kind", LOUD)
def test_tuned_chroma_is_near_that_of_librosa(sound, kind):
    samples = sound(kind, 22_050)
    power = np.abs(librosa.stft(samples, pad_mode="reflect"))
    tuning = librosa.estimate_tuning(S=power, sr=22_050, bins_per_octave=36)
    step = 2 ** (1 / 36)
    scale = (step**2 - 1) / (step**2 + 1) / (step - 1)
    magnitude = np.abs(
        librosa.cqt(samples, n_bins=252, bins_per_octave=36, tuning=tuning, filter_scale=scale, pad_mode="reflect")
    )
    reference = librosa.feature.chroma_cqt(C=magnitude, bins_per_octave=36).T
    ours = TunedChroma()(torch.from_numpy(samples)).numpy()
    assert ours.shape == reference.shape
    # librosa reflects each octave at its own rate, so the frames that overlap the clip's end are excluded.
    apart = np.abs(ours - reference)[:-EDGE]
    assert apart.max() < 0.05
    assert apart.mean() < 0.005


def test_chroma_of_a_note_that_dies_away_does_not_depend_on_the_number_of_threads():
    time = np.arange(44_100) / 22_050
    note = (np.sin(2 * np.pi * 440 * time) * np.exp(-8 * time) * (time < 1.2)).astype(np.float32)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(TunedChroma()(torch.from_numpy(note)))
    for other in results[1:]:
        # In single precision a frame of the silence was 0.5 off [docs/intervals].
        torch.testing.assert_close(other, results[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["silence", "one sample", "short"])
def test_odd_clips_have_finite_chroma(sound, kind):
    chroma = TunedChroma()(torch.from_numpy(sound(kind, 22_050)))
    assert torch.isfinite(chroma).all()
    assert bool(chroma.any()) == (kind != "silence")


def test_autocast_changes_nothing(sound, same_under_autocast):
    same_under_autocast(ChromaSTFT(), tensor(sound("noise", 16_000)))
    same_under_autocast(TunedChroma(), torch.from_numpy(sound("chord", 22_050)))


@pytest.mark.parametrize(
    "wrong, says",
    [
        (lambda: ChromaSTFT(chroma=100), "100 chroma bins do not divide"),
        (lambda: fold_to_chroma(torch.ones(1, 1, 84), 12, 36), "do not make 36"),
        (lambda: ChromaSTFT()(torch.zeros(1, 0)), "no samples"),
    ],
)
def test_invalid_chroma_settings_are_refused(wrong, says):
    with pytest.raises(UsageError, match=says):
        wrong()
