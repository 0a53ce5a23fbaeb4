"""MULE: its front end and its slices against librosa and numpy, odd clips, batches and long sounds."""

import librosa
import numpy as np
import pytest
import torch

from carrara.encoders._base import Encoder
from carrara.encoders.mule import ENCODER, MuleSettings, split_slices, standardize_slices

RATE = 16_000
TINY = MuleSettings(
    blocks=(1, 2, 2),
    slow_stem=(4, 4, 8, 16),
    fast_stem=(2, 2, 4, 8),
    slow_channels=(16, 32, 32),
    fast_channels=(16, 32, 24),
    slow_group=8,
    fast_group=4,
    lateral_channels=(8, 8, 16),
    lateral_outputs=(8, 16, 32),
)


def noise(seconds, seed=0):
    return 0.1 * torch.randn(1, round(seconds * RATE), generator=torch.Generator().manual_seed(seed))


def tiny(seed=0, **changes) -> Encoder:
    settings = TINY.model_copy(update=changes)
    encoder = ENCODER.build(settings, ENCODER.update_card(ENCODER.variants["mule"][0], settings), seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if parameter.dim() < 2:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator) + name.endswith("gain") * 0.5)
    return encoder


@pytest.fixture(scope="module")
def encoder():
    return tiny()


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def described(samples):
    """The slices of a clip of at least 3 s by the spec, in librosa and numpy: `[N, 96, 300]`."""
    power = librosa.feature.melspectrogram(
        y=samples, sr=RATE, n_fft=2048, win_length=400, hop_length=160, n_mels=96, fmin=0, fmax=8000,
        htk=True, norm=2.0, power=2.0, center=True, pad_mode="reflect",
    )  # fmt: skip
    mel = np.log10(1 + 10_000 * power)
    actual = []
    for centre in np.arange(0, mel.shape[1], 200)[1:]:
        end = min(centre + 150, mel.shape[1])
        one = mel[:, end - 300 : end]
        actual.append((one - one.mean()) / max(one.std(), 0.01))
    return np.stack(actual)


class TestSound:
    @pytest.mark.parametrize("seconds, count", [(3.0, 1), (3.99, 1), (4.0, 2), (6.0, 3), (11.37, 5), (30.0, 15)])
    def test_slices_are_those_of_librosa_and_numpy(self, encoder, seconds, count):
        time = torch.arange(round(seconds * RATE)) / RATE
        samples = noise(seconds)[0] * torch.linspace(0, 1, len(time)) + 0.3 * torch.sin(700 * time * (1 + time))
        ours = standardize_slices(split_slices(encoder.spectrogram(samples))).mT
        expected = described(samples.numpy())
        assert len(ours) == len(expected) == count
        np.testing.assert_allclose(ours.numpy(), expected, atol=2e-4)

    def test_features_are_the_mean_over_the_slices(self, encoder):
        samples = noise(11.37)
        expected = encoder.network(torch.from_numpy(described(samples[0].numpy())).float()).mean(dim=0)
        torch.testing.assert_close(encoder(samples)[0, 0, 0], expected, atol=1e-4, rtol=1e-4)
        assert expected.std() > 0.01

    def test_start_frames_of_slices(self):
        clip = torch.arange(850.0)[:, None]
        assert [int(one[0]) for one in split_slices(clip)] == [50, 250, 450, 550]
        assert all(len(one) == 300 for one in split_slices(clip))
        assert [int(one[0]) for one in split_slices(clip[:300])] == [0]

    def test_a_nearly_constant_slice_is_not_amplified(self):
        quiet = torch.full((1, 300, 96), 2.0)
        quiet[0, :150] += 0.002
        torch.testing.assert_close(standardize_slices(quiet).abs(), torch.full((1, 300, 96), 0.1), atol=1e-3, rtol=0)

    def test_amplitude_is_a_factor_on_the_samples(self):
        halved = tiny(amplitude=0.5)
        assert torch.equal(halved(noise(4)), tiny()(0.5 * noise(4)))
        assert not torch.allclose(halved(noise(4)), tiny()(noise(4)), atol=1e-4)

    @pytest.mark.parametrize("seconds", [0.01, 0.7, 2.99])
    def test_a_short_clip_is_padded_with_zeros(self, encoder, seconds):
        padded = torch.nn.functional.pad(noise(seconds), (0, 3 * RATE - round(seconds * RATE)))
        assert torch.equal(encoder(noise(seconds)), encoder(padded))
        assert encoder(padded).std() > 0.01

    @pytest.mark.parametrize(
        "samples", [torch.zeros(1, RATE), torch.full((1, 1), 0.5), torch.full((1, 5 * RATE), 0.5), 1000 * noise(1)]
    )
    def test_odd_clips_stay_finite(self, encoder, samples):
        features = encoder(samples)
        assert features.shape == (1, 1, 1, 56)
        assert torch.isfinite(features).all()

    def test_clips_of_a_batch_are_independent(self, encoder):
        lengths = torch.tensor([100_000, 16_000, 48_123])
        batch = torch.full((3, 100_000), 7.0)
        for row, length in enumerate(lengths):
            batch[row, :length] = noise(7, row)[0, :length]
        together = encoder(batch, lengths)
        for row, length in enumerate(lengths):
            torch.testing.assert_close(together[row], encoder(batch[row : row + 1, :length])[0], atol=1e-5, rtol=1e-5)

    def test_bfloat16_is_near(self, encoder):
        exact = encoder(noise(4))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = encoder(noise(4))
        assert rough.dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(exact.flatten(), rough.flatten(), dim=0) > 0.99

    def test_long_clips_are_encoded_in_blocks(self, encoder, monkeypatch):
        blocks = []

        def means(slices_NMF):
            blocks.append(len(slices_NMF))
            return slices_NMF.mean(dim=(1, 2))[:, None].expand(-1, 56)

        monkeypatch.setattr(encoder.network, "forward", means)
        assert encoder(noise(600)).shape == (1, 1, 1, 56)
        assert sum(blocks) == 300
        assert max(blocks) == 8

    def test_the_card(self, encoder):
        card = encoder.card
        assert (card.dim, card.num_layers, card.frame_rate, card.sample_rate) == (56, 0, None, RATE)
        assert card.parameters == sum(parameter.numel() for parameter in encoder.parameters())
        assert encoder.num_frames(1) == encoder.num_frames(10**7) == 1
        assert not ENCODER.variants["mule"][0].commercial_use
