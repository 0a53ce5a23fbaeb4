"""Augmentations: gain, polarity, tilt and noise measured on the output."""

import numpy as np
import pytest
import torch

from carrara.pretrain.augment import augment_crops, tilt_spectrum
from carrara.pretrain.recipes._base import AugmentSettings

RATE = 16_000


def tone(hertz, seconds=1.0):
    return torch.sin(2 * torch.pi * hertz * torch.arange(int(seconds * RATE)) / RATE)


def decibels(after, before):
    return 20 * np.log10((after.square().mean().sqrt() / before.square().mean().sqrt()).item())


def draws(count):
    return [(0, 0, item) for item in range(count)]


def test_default_settings_change_nothing():
    clips = torch.randn(3, 100)
    assert augment_crops(clips, draws(3), AugmentSettings(), RATE) is clips


def test_gains_lie_evenly_within_the_bound_and_half_the_clips_are_inverted():
    clips = tone(440, 0.1).expand(400, -1)
    out = augment_crops(clips, draws(400), AugmentSettings(gain_db=6, polarity=0.5), RATE)
    gains = np.array([decibels(clip, clips[0]) for clip in out])
    assert np.abs(gains).max() <= 6
    # The standard deviation of a uniform distribution over ±6 is 6 / √3.
    assert gains.std() == pytest.approx(6 / np.sqrt(3), rel=0.1)
    inverted = (out * clips).sum(dim=1) < 0
    assert inverted.float().mean().item() == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize(("hertz", "expected"), [(250, -6.0), (1000, 0.0), (4000, 6.0)])
def test_a_tilt_of_three_decibels_an_octave_turns_about_1_khz(hertz, expected):
    assert decibels(tilt_spectrum(tone(hertz), 3.0, RATE), tone(hertz)) == pytest.approx(expected, abs=0.02)


def test_noise_is_20_to_40_decibels_below_the_clip():
    clips = tone(440).expand(40, -1)
    noise = augment_crops(clips, draws(40), AugmentSettings(noise_db=20), RATE) - clips
    levels = [decibels(clip, clips[0]) for clip in noise]
    assert -40.2 < min(levels) < -35 < -25 < max(levels) < -19.8


def test_the_same_draw_gives_the_same_sound():
    settings = AugmentSettings(gain_db=6, tilt_db=3, noise_db=20)
    clips = torch.randn(3, 1600, generator=torch.Generator().manual_seed(0))
    whole = augment_crops(clips, draws(3), settings, RATE)
    assert torch.equal(whole[1:], augment_crops(clips[1:], draws(3)[1:], settings, RATE))
    with_less = augment_crops(clips, draws(3), AugmentSettings(gain_db=6), RATE)
    alone = augment_crops(clips, draws(3), AugmentSettings(gain_db=6, polarity=1.0), RATE)
    torch.testing.assert_close(with_less, -alone)
