"""`relative-chroma` against numpy written here, and that a transposed clip keeps its features."""

from itertools import pairwise
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch

from carrara.data._pebble.clips import create_clip
from carrara.data._pebble.theory import THEORY
from carrara.encoders.relative_chroma import ENCODER, VARIANTS, correlate_parts, estimate_tonic
from carrara.nn.spectral.chroma import TunedChroma

EXCERPTS = Path(__file__).parents[1] / "excerpts"
RATE = 22_050
# Probe-tone ratings [krumhansl1982], here from the table for the tests of Pebble's keys.
MAJOR = np.array([6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88])
MINOR = np.array([6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17])


@pytest.fixture(scope="module")
def network():
    card, settings = ENCODER.variants["relative-chroma"]
    return ENCODER.build(settings, card, 0)


@pytest.fixture(scope="module")
def clip():
    return librosa.load(EXCERPTS / "game.wav", sr=RATE)[0]


def by_hand(chroma_FC):
    """The features in numpy, from the chroma of every frame."""
    notes = np.maximum(chroma_FC - np.median(chroma_FC, axis=1, keepdims=True), 0)
    edges = np.linspace(0, len(notes), 9)
    parts = np.stack([notes[int(low) : int(np.ceil(high))].mean(0) for low, high in pairwise(edges)])
    parts = parts / np.sqrt(np.mean(parts**2))
    keys = [(np.corrcoef(np.roll(parts.mean(0), -t), p)[0, 1], t) for t in range(12) for p in (MAJOR, MINOR)]
    tonic = max(keys)[1]
    parts = parts - parts.mean()
    lagged = np.zeros((8, 12))
    for lag in range(8):
        for interval in range(12):
            pairs = [np.roll(parts[p + lag], -interval) @ parts[p] for p in range(8 - lag)]
            lagged[lag, interval] = np.mean(pairs)
    views = np.roll(parts, -tonic, axis=1), np.abs(np.fft.fft2(parts))[:, :7] / np.sqrt(96), lagged / 3
    return np.concatenate([view.ravel() for view in views])


def test_features_are_those_of_numpy(network, clip):
    for samples in (clip, clip[: 3 * RATE], clip[2000:2500]):
        loudest = torch.from_numpy(samples / np.abs(samples).max())
        chroma = TunedChroma(RATE, 512)(loudest).numpy().astype(np.float64)
        ours = network(torch.from_numpy(samples)[None])
        assert ours.shape == (1, 1, 1, 248) == (1, 1, 1, network.card.dim)
        np.testing.assert_allclose(ours.flatten().numpy(), by_hand(chroma), atol=2e-4)


def chord(pitches, seconds):
    time = np.arange(int(seconds * RATE)) / RATE
    partials = [(pitch, n) for pitch in pitches for n in (1, 2, 3)]
    return sum(np.sin(2 * np.pi * n * 440 * 2 ** ((p - 69) / 12) * time) / n**2 for p, n in partials)


def progression(roots, shift=0):
    return np.concatenate([chord([root + shift + step for step in (0, 4, 7)], 0.8) for root in roots])


@pytest.mark.parametrize("shift", [1, 5, -4])
def test_a_transposed_progression_keeps_its_features_and_another_has_others(network, shift):
    roots = (60, 65, 67, 60)
    clips = [progression(roots), progression(roots, shift), progression(roots[::-1]), progression((60, 67, 65, 60))]
    samples = torch.from_numpy(np.stack(clips)).float()
    features = network(samples)[:, 0, 0].numpy()
    same, backwards, other = (np.linalg.norm(features[0] - each) for each in features[1:])
    assert same < 0.1 * min(other, np.linalg.norm(features[0]))
    np.testing.assert_allclose(backwards, other, rtol=1e-5, err_msg="here they are the same chords")


@pytest.mark.parametrize("tonic", range(12))
def test_tonics_are_those_of_the_profiles(tonic):
    generator = np.random.default_rng(tonic)
    for profile in (MAJOR, MINOR):
        mean = np.roll(profile, tonic) + 0.1 * generator.standard_normal(12)
        assert estimate_tonic(torch.from_numpy(mean)) == tonic


def test_correlations_of_rotated_parts_do_not_change():
    parts = torch.rand(8, 12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(correlate_parts(parts.roll(7, dims=1)), correlate_parts(parts))


@pytest.mark.parametrize("level, samples", [(0.0, RATE), (1.0, 1), (0.1, 5000), (0.0, 1)])
def test_odd_clips_stay_finite(network, level, samples):
    assert torch.isfinite(network(torch.full((1, samples), level))).all()


def test_unequal_clips_have_the_same_features_in_a_batch_as_alone(network, clip):
    lengths = torch.tensor([30_000, 66_150, 700])
    batch = torch.full((3, 66_150), 7.0)
    for row, length in enumerate(lengths):
        batch[row, :length] = torch.from_numpy(clip[1000 * row : 1000 * row + length])
    together = network(batch, lengths)
    for row, length in enumerate(lengths):
        assert torch.equal(together[row], network(batch[row : row + 1, :length])[0])


def test_the_card(network):
    card = network.card
    assert (card.name, card.num_layers, card.frame_rate, card.sample_rate) == ("relative-chroma", 0, None, RATE)
    assert set(ENCODER.variants) == set(VARIANTS) and not ENCODER.has_weights
    assert network.num_frames(1_000_000) == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qualities", "progressions"])
def test_the_nearest_clip_of_pebble_has_the_same_label_in_any_key(network, kind):
    """By leave-one-out, of 24 clips in eight classes; by means and stds of the chroma it has not (chance: 1 in 8)."""
    labels, features, means = [], [], []
    for number in range(THEORY.index(kind), 24 * len(THEORY), len(THEORY)):
        clip = create_clip("theory", number)
        (label,) = clip.labels.values()
        samples = librosa.resample(clip.render()[0] / np.float32(32768), orig_sr=24_000, target_sr=RATE)
        chroma = TunedChroma(RATE, 512)(torch.from_numpy(samples)).numpy()
        labels.append(label)
        features.append(network(torch.from_numpy(samples)[None]).flatten().numpy())
        means.append(np.concatenate([chroma.mean(0), chroma.std(0)]))

    def accuracy(rows):
        unit = np.stack(rows) / np.linalg.norm(rows, axis=1, keepdims=True)
        nearest = (unit @ unit.T - 9 * np.eye(len(unit))).argmax(1)
        return np.mean([labels[index] == labels[other] for index, other in enumerate(nearest)])

    assert accuracy(features) > 0.4
    assert accuracy(means) < 0.3
