"""The hand-crafted statistics against numpy and librosa, and what they do with odd clips and with batches."""

from pathlib import Path

import librosa
import numpy as np
import pytest
import torch

from carrara.encoders import handcrafted
from carrara.encoders.handcrafted import ENCODER, VARIANTS, feature_moments

EXCERPTS = Path(__file__).parents[1] / "excerpts"


def encoder(name):
    card, settings = ENCODER.variants[name]
    return ENCODER.build(settings, card, 0)


@pytest.fixture(scope="module")
def clip():
    return librosa.load(EXCERPTS / "game.wav", sr=22_050)[0]


def moments_of(features):
    """The recipe in numpy, on features with time along the second axis."""
    parts = []
    for order in range(3):
        steps = np.diff(features, n=order, axis=1)
        parts += [steps.mean(axis=1), steps.std(axis=1)]
    return np.concatenate(parts)


@pytest.mark.parametrize("frames", [3, 4, 50])
def test_moments_are_those_of_numpy(frames):
    features = np.random.default_rng(frames).standard_normal((7, frames))
    np.testing.assert_allclose(feature_moments(torch.from_numpy(features.T)).numpy(), moments_of(features), atol=1e-12)


@pytest.mark.parametrize("frames, known", [(1, 1), (2, 3)])
def test_moments_of_too_few_frames_are_zero(frames, known):
    rows = feature_moments(1 + torch.rand(frames, 4, generator=torch.Generator().manual_seed(0))).view(6, 4)
    assert rows[0].all()
    assert not rows[known:].any()


def test_mfcc_statistics_are_those_of_librosa_with_reflecting_edges(clip):
    loudest = clip / np.abs(clip).max()
    power = librosa.feature.melspectrogram(y=loudest, sr=22_050, pad_mode="reflect")
    expected = moments_of(librosa.feature.mfcc(S=librosa.power_to_db(power), n_mfcc=20))
    ours = encoder("mfcc")(torch.from_numpy(clip)[None])
    assert ours.shape == (1, 1, 1, 120)
    np.testing.assert_allclose(ours.flatten().numpy(), expected, atol=2e-3)


def test_chroma_statistics_are_near_those_of_librosa(clip):
    power = np.abs(librosa.stft(clip, pad_mode="reflect"))
    tuning = librosa.estimate_tuning(S=power, sr=22_050, bins_per_octave=36)
    reflected = np.abs(librosa.cqt(clip, n_bins=252, bins_per_octave=36, tuning=tuning, pad_mode="reflect"))
    expected = moments_of(librosa.feature.chroma_cqt(C=reflected, bins_per_octave=36))
    ours = encoder("chroma")(torch.from_numpy(clip)[None])
    assert ours.shape == (1, 1, 1, 72)
    # librosa 0.11 has kernels 1 % longer than 0.8 and resamples between octaves.
    np.testing.assert_allclose(ours.flatten().numpy(), expected, atol=0.01)


def test_chroma_and_mfcc_statistics_are_concatenated(clip):
    samples = torch.from_numpy(clip[:44_100])[None]
    apart = torch.cat([encoder("chroma")(samples), 0.01 * encoder("mfcc")(samples)], dim=-1)
    assert torch.equal(encoder("chroma-mfcc")(samples), apart)


@pytest.mark.parametrize("name", VARIANTS)
def test_features_do_not_depend_on_gain(name, clip):
    network, samples = encoder(name), torch.from_numpy(clip[:44_100])[None]
    torch.testing.assert_close(network(0.01 * samples), network(samples), atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("level, samples", [(0.0, 22_050), (1.0, 1), (0.1, 5000), (0.0, 1)])
@pytest.mark.parametrize("name", VARIANTS)
def test_odd_clips_stay_finite(name, level, samples):
    assert torch.isfinite(encoder(name)(torch.full((1, samples), level))).all()


@pytest.mark.parametrize("name", VARIANTS)
def test_unequal_clips_have_the_same_features_in_a_batch_as_alone(name, clip):
    network = encoder(name)
    lengths = torch.tensor([30_000, 66_150, 700])
    batch = torch.full((3, 66_150), 7.0)
    for row, length in enumerate(lengths):
        batch[row, :length] = torch.from_numpy(clip[1000 * row : 1000 * row + length])
    together = network(batch, lengths)
    for row, length in enumerate(lengths):
        assert torch.equal(together[row], network(batch[row : row + 1, :length])[0])


@pytest.mark.parametrize("name", VARIANTS)
def test_cards(name):
    network = encoder(name)
    card = network.card
    assert (card.name, card.num_layers, card.frame_rate, card.sample_rate) == (name, 0, None, 22_050)
    assert card.dim == {"chroma": 72, "mfcc": 120, "chroma-mfcc": 192}[name]
    assert network.num_frames(1_000_000) == network.num_frames(1) == 1
    assert not ENCODER.has_weights
    assert set(ENCODER.variants) == set(handcrafted.VARIANTS)
