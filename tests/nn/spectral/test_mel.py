"""Mel filter banks and spectrograms against librosa and transformers."""

import librosa
import numpy as np
import pytest
import torch
from transformers import audio_utils

from carrara.core.errors import UsageError
from carrara.nn.spectral.framing import framing_preset
from carrara.nn.spectral.mel import (
    MelBands,
    MelSpectrogram,
    hertz_to_mel,
    log10_compress,
    mel_filter_bank,
    mel_to_hertz,
    to_decibels,
)

KINDS = ("tone", "chord", "noise", "silence", "one sample", "short", "game-1.mp3")
MAEST = MelBands(96, 0.0, 8000.0)


@pytest.mark.parametrize("scale, htk", [("slaney", False), ("htk", True)])
@pytest.mark.parametrize("norm, theirs", [("slaney", "slaney"), ("none", None), ("l2", 2.0)])
@pytest.mark.parametrize(
    "count, size, low, high", [(96, 512, 0.0, 8000.0), (128, 2048, 30.0, None), (229, 2048, 30.0, 7000.0)]
)
def test_banks_are_those_of_librosa(scale, htk, norm, theirs, count, size, low, high):
    ours = mel_filter_bank(MelBands(count, low, high, scale, norm), 16_000, size).numpy()
    reference = librosa.filters.mel(
        sr=16_000, n_fft=size, n_mels=count, fmin=low, fmax=high, htk=htk, norm=theirs, dtype=np.float64
    )
    np.testing.assert_allclose(ours, reference.T, atol=2e-6)


def test_kaldi_bank_is_that_of_transformers():
    reference = audio_utils.mel_filter_bank(
        257, 23, 20.0, 8000.0, 16_000, mel_scale="kaldi", triangularize_in_mel_space=True
    )
    np.testing.assert_allclose(
        mel_filter_bank(MelBands(23, 20.0, None, "kaldi", "none"), 16_000, 512).numpy(), reference, atol=1e-9
    )


@pytest.mark.parametrize("scale, htk", [("slaney", False), ("htk", True)])
def test_mel_scale_and_its_inverse(scale, htk):
    hertz = torch.tensor([0.0, 20.0, 999.9, 1000.0, 1000.1, 4000.0, 12_000.0], dtype=torch.float64)
    mel = hertz_to_mel(hertz, scale)
    reference = librosa.hz_to_mel(hertz.numpy(), htk=htk)
    np.testing.assert_allclose(mel.numpy(), reference, rtol=1e-5)
    torch.testing.assert_close(mel_to_hertz(mel, scale), hertz, atol=1e-8, rtol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_log_mel_is_that_of_transformers_for_maest(sound, kind):
    samples = sound(kind, 16_000)
    ours = MelSpectrogram(16_000, framing_preset("maest-hf"), MAEST, "log10")(torch.from_numpy(samples)[None])[0]
    filters = audio_utils.mel_filter_bank(257, 96, 0.0, 8000.0, 16_000, norm="slaney", mel_scale="slaney")
    power = audio_utils.spectrogram(
        samples, audio_utils.window_function(512, "hann"), 512, 256, power=2.0, pad_mode="constant", mel_filters=filters
    )
    np.testing.assert_allclose(ours.numpy(), np.log10(1 + 10_000 * power.T), atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_power_and_decibels_are_those_of_librosa(sound, kind):
    samples = sound(kind, 22_050)
    framing = framing_preset("librosa", window=1024, hop=256)
    power = MelSpectrogram(22_050, framing, MelBands(128))(torch.from_numpy(samples)[None])
    reference = librosa.feature.melspectrogram(y=samples, sr=22_050, n_fft=1024, hop_length=256)
    np.testing.assert_allclose(power[0].numpy(), reference.T, rtol=2e-3, atol=1e-6 * max(reference.max(), 1e-9))
    loud = torch.from_numpy(reference.T.copy())[None]
    for reach in (None, 80.0):
        np.testing.assert_allclose(
            to_decibels(loud, reach)[0].numpy(), librosa.power_to_db(reference, top_db=reach).T, atol=1e-4
        )


def test_each_clip_of_a_batch_has_its_own_decibel_range():
    power = torch.tensor([[[1.0, 1e-10]], [[1e-4, 1e-10]]])
    assert to_decibels(power, 80.0).flatten().tolist() == pytest.approx([0.0, -80.0, -40.0, -100.0])


def test_loud_tones_stay_finite_where_half_precision_overflows():
    power = torch.tensor([0.0, 6.55, 1e6])
    assert log10_compress(power).tolist() == pytest.approx([0.0, np.log10(65_501.0), np.log10(1e10 + 1)], rel=1e-5)


@pytest.mark.parametrize("compression, floor", [("none", 0.0), ("ln", np.log(1e-10)), ("db", -100.0), ("log10", 0.0)])
def test_silence_has_the_lowest_value_of_every_compression(compression, floor):
    values = MelSpectrogram(16_000, framing_preset("musicnn"), MAEST, compression)(torch.zeros(2, 4000))
    torch.testing.assert_close(values, torch.full_like(values, floor))


def test_autocast_changes_nothing(sound, same_under_autocast):
    module = MelSpectrogram(16_000, framing_preset("maest-hf"), MAEST, "ln")
    same_under_autocast(module, torch.from_numpy(sound("noise", 16_000))[None])
    assert not module.state_dict()


def test_bands_above_half_the_rate_are_refused():
    with pytest.raises(UsageError, match="12000 Hz do not fit a sample rate of 16000"):
        MelSpectrogram(16_000, framing_preset("musicnn"), MelBands(96, 0.0, 12_000.0))
