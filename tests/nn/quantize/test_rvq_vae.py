"""The codec: frames where they should be, codebooks as a naive running mean has them, pieces equal to the whole."""

import math

import numpy as np
import pytest
import torch

from carrara.nn.quantize.rvq_vae import BLOCK_FRAMES, RVQVAE, Codebooks, CodecSettings
from carrara.nn.spectral.multiscale_loss import SpectralDistance

TINY = CodecSettings(sample_rate=16_000, filters=4, latent=8, num_codebooks=3, codebook_size=16)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(seconds=1.0, count=2):
    return 0.1 * torch.randn(count, int(16_000 * seconds), generator=generator(1))


@pytest.fixture(scope="module")
def codec():
    """A codec whose codebooks have started."""
    made = RVQVAE(TINY, seed=3).train()
    made.books.start(made.latents(noise()), generator())
    return made.eval()


@pytest.mark.parametrize("samples", [16_000, 16_001, 319, 641])
def test_a_partial_hop_has_a_frame_and_decodes_to_a_full_hop(codec, samples):
    codes = codec.encode(noise(2)[:, :samples])
    assert codes.shape == (2, math.ceil(samples / 320), 3)
    assert codes.dtype == torch.int64
    assert 0 <= int(codes.min()) <= int(codes.max()) < 16
    assert codec.decode(codes).shape == (2, 320 * codes.shape[1])
    assert codec(noise(2)[:, :samples], 3).samples_BT.shape == (2, samples)


@pytest.mark.parametrize("strides", [(2, 4, 5, 8), (3, 3), (4,), (7, 2)])
def test_any_strides_keep_the_length(strides):
    settings = TINY.model_copy(update={"strides": strides})
    network = RVQVAE(settings)
    latent = network.encoder(torch.zeros(1, 1, 10 * settings.hop))
    assert latent.shape == (1, 8, 10)
    assert network.decoder(latent).shape == (1, 1, 10 * settings.hop)


def test_a_click_changes_only_the_frames_around_it(codec):
    silent = torch.zeros(1, 1, 320 * 40)
    for frame in (10, 25):
        click = silent.clone()
        click[..., 320 * frame + 160] = 1.0
        with torch.no_grad():
            change = (codec.encoder(click) - codec.encoder(silent)).abs().sum(1)[0]
        sizes = change.nonzero()[:, 0]
        assert abs(float(sizes.double().mean()) - frame) <= 0.5
        assert len(sizes) <= 11
        centre = float((change * torch.arange(40)).sum() / change.sum())
        assert abs(centre - frame) < 1.5


def test_long_audio_in_blocks_has_the_codes_of_one_block(codec):
    samples = noise(4)
    whole = codec.encode(samples)
    assert whole.shape[1] < BLOCK_FRAMES
    # Sums of another length are rounded differently, so a frame on a boundary may get another code.
    assert (codec.encode(samples, block_frames=23) == whole).double().mean() > 0.99


def test_fewer_codebooks_give_the_first_codes(codec):
    assert torch.equal(codec.encode(noise(), num_codebooks=2), codec.encode(noise())[..., :2])


def test_codebooks_follow_a_naive_running_mean():
    codebooks = Codebooks(2, 4, 3)
    rng = np.random.default_rng(0)
    centres = 4 * rng.normal(size=(4, 3))
    batches = [centres[rng.integers(4, size=200)] + 0.1 * rng.normal(size=(200, 3)) for _ in range(6)]
    codebooks.start(torch.from_numpy(batches[0]).float(), generator())
    codes, sums, counts = (
        part.double().numpy().copy() for part in (codebooks.codes_QKC, codebooks.sums_QKC, codebooks.counts_QK)
    )
    np.testing.assert_allclose(counts.sum(1), 200)
    for batch in batches[1:]:
        _, _, vectors, nearest_codes = codebooks(torch.from_numpy(batch).float(), 2)
        codebooks.update(vectors, nearest_codes, generator())
        residual = batch
        for codebook in range(2):
            nearest = ((residual[:, None] - codes[codebook]) ** 2).sum(-1).argmin(1)
            actual = codes[codebook][nearest]
            for code in range(4):
                counts[codebook, code] = 0.99 * counts[codebook, code] + 0.01 * (nearest == code).sum()
                sums[codebook, code] = 0.99 * sums[codebook, code] + 0.01 * residual[nearest == code].sum(0)
            total = counts[codebook].sum()
            codes[codebook] = sums[codebook] / ((counts[codebook] + 1e-5) * total / (total + 4e-5))[:, None]
            residual = residual - actual
    np.testing.assert_allclose(codebooks.codes_QKC.numpy(), codes, atol=1e-4)


def test_an_unused_code_is_replaced_by_a_vector_of_the_batch():
    codebooks = Codebooks(1, 4, 2)
    vectors = torch.randn(100, 2, generator=generator())
    codebooks.start(vectors, generator())
    codebooks.codes_QKC[0, 2] = 1e4
    codebooks.sums_QKC[0, 2], codebooks.counts_QK[0, 2] = 0.0, 0.0
    _, _, quantized, codes = codebooks(vectors, 1)
    codebooks.update(quantized, codes, generator())
    nearest = (vectors - codebooks.codes_QKC[0, 2]).norm(dim=1).min()
    assert float(nearest) < 1e-3


def test_straight_through_gradient_and_commitment_loss_of_each_codebook():
    codebooks = Codebooks(3, 4, 2)
    latent = torch.randn(60, 2, generator=generator(), requires_grad=True)
    codebooks.start(latent.detach(), generator())
    quantised, commitment, _, _ = codebooks(latent, 3)
    upstream = torch.randn(60, 2, generator=generator(5))
    (quantised * upstream).sum().backward(retain_graph=True)
    torch.testing.assert_close(latent.grad, upstream)
    latent.grad = None
    commitment.backward()
    # Every codebook's residual is the latent vector less constants, so each pulls with its own remainder.
    residual, expected = latent.detach(), torch.zeros_like(latent)
    for codebook in codebooks.codes_QKC:
        residual = residual - codebook[torch.cdist(residual, codebook).argmin(1)]
        expected += 2 * residual / residual.numel() / 3
    torch.testing.assert_close(latent.grad, expected, atol=1e-6, rtol=1e-4)


def test_the_same_seed_gives_the_same_network():
    one, other = RVQVAE(TINY, 5).state_dict(), RVQVAE(TINY, 5).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    different = RVQVAE(TINY, 6).state_dict()
    assert not torch.equal(one["encoder.0.weight"], different["encoder.0.weight"])


def test_the_spectral_distance_is_librosas():
    librosa = pytest.importorskip("librosa")
    one, other = noise(0.5), 0.3 * noise(1.0)[:, 8000:]
    total = []
    for size in (32, 64, 128, 256, 512, 1024, 2048):

        def logs(sound, size=size):
            mel = librosa.feature.melspectrogram(
                y=sound.numpy(), sr=16_000, n_fft=size, hop_length=size // 4, n_mels=min(64, size // 8),
                pad_mode="constant",
            )  # fmt: skip
            return np.log(mel + 1e-5)

        difference = logs(one) - logs(other)
        total.append(np.abs(difference).mean() + np.sqrt((difference**2).mean(axis=-2)).mean())
    distance = SpectralDistance(16_000)
    assert float(distance(one, other)) == pytest.approx(np.mean(total), rel=1e-3)
    assert float(distance(one, one)) == pytest.approx(0.0, abs=1e-5)


def test_no_band_of_the_spectral_distance_is_empty():
    for rate in (16_000, 24_000, 44_100):
        for scale in SpectralDistance(rate).scales:
            assert bool((scale.bank_KM.sum(dim=0) > 0).all())
