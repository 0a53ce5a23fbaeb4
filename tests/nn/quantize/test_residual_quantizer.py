"""Residual quantisers against naive loops in numpy, and that what they leave over shrinks codebook after codebook."""

import numpy as np
import pytest
import torch

from carrara.core.errors import DataError, UsageError
from carrara.nn.quantize.random_projection import ProjectedRVQ, RandomProjection
from carrara.nn.quantize.residual_quantizer import (
    codebook_usage,
    decode_rvq,
    encode_rvq,
    fit_rvq,
    relative_perplexity,
    update_rvq,
)


def cloud(points=3000, dimensions=6, seed=0):
    rng = np.random.default_rng(seed)
    spread = rng.normal(size=(points, dimensions)) * np.linspace(3, 0.5, dimensions)
    return torch.from_numpy(spread + rng.integers(-3, 4, size=(points, 1))).float()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def fitted(points, codebooks=4, size=16, **more):
    return fit_rvq([points], codebooks, size, generator(), max_points=10**6, **more)


def naive_codes(points, codebooks):
    """Return the codes by a plain loop in double precision, and what is left over."""
    codes, residual = [], points.astype(np.float64)
    for codebook in codebooks.astype(np.float64):
        nearest = ((residual[:, None] - codebook[None]) ** 2).sum(-1).argmin(1)
        residual = residual - codebook[nearest]
        codes.append(nearest)
    return np.stack(codes, axis=1), residual


def test_codes_are_those_of_a_naive_search_and_decode_to_their_sum():
    points, codebooks = cloud(400), torch.randn(3, 9, 6, generator=generator())
    codes, residual = naive_codes(points.numpy(), codebooks.numpy())
    assert encode_rvq(points, codebooks).tolist() == codes.tolist()
    for count in (1, 3):
        sums = sum(codebooks.numpy()[codebook][codes[:, codebook]] for codebook in range(count))
        np.testing.assert_allclose(decode_rvq(encode_rvq(points, codebooks)[:, :count], codebooks), sums, atol=1e-5)
    np.testing.assert_allclose(
        points.numpy() - decode_rvq(encode_rvq(points, codebooks), codebooks).numpy(), residual, atol=1e-4
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert encode_rvq(points, codebooks).tolist() == codes.tolist()


def test_each_codebook_lowers_the_error_as_reported():
    points = cloud()
    codebooks, report = fitted(points)
    variance = points.numpy().var(axis=0).sum()
    left = []
    for count in range(1, 5):
        _, residual = naive_codes(points.numpy(), codebooks[:count].numpy())
        left.append((residual**2).sum(1).mean() / variance)
    assert left == sorted(left, reverse=True)
    assert left[3] < 0.3 * left[0]
    np.testing.assert_allclose(report["left"], left, rtol=1e-3)
    assert report["points"] == len(points)
    assert report["dead"] == [0, 0, 0, 0]


def test_the_last_codebook_is_a_fixed_point_of_k_means_on_the_residual():
    points = cloud(1500)
    codebooks, _ = fitted(points, iterations=300)
    _, residual = naive_codes(points.numpy(), codebooks[:3].numpy())
    codes, _ = naive_codes(residual, codebooks[3:].numpy())
    means = np.stack([residual[codes[:, 0] == code].mean(0) for code in range(16)])
    # Lloyd stops when a pass gains less than a ten-thousandth, so the means may still move a little.
    assert np.abs(means - codebooks[3].numpy()).max() < 0.2 * residual.std()


def test_points_beyond_the_memory_limit_update_the_codebooks_nearly_as_well():
    points = cloud(12_000)
    whole, _ = fitted(points)
    streamed, counted = fit_rvq(points.split(500), 4, 16, generator(), max_points=2000)
    assert counted["points"] == 12_000
    start, _ = fit_rvq(points[:2000].split(500), 4, 16, generator(), max_points=2000)
    assert not torch.equal(streamed, start)

    def error(codebooks):
        return float((naive_codes(points.numpy(), codebooks.numpy())[1] ** 2).sum(1).mean())

    assert error(streamed) < 1.25 * error(whole)
    assert error(streamed) < 1.02 * error(start)


def test_an_updated_centroid_is_the_mean_of_all_points_nearest_to_it():
    points = cloud(100)
    codebooks, weights = points[None, :1].clone(), torch.ones(1, 1)
    for chunk in points[1:].split(7):
        update_rvq(chunk, codebooks, weights)
    torch.testing.assert_close(codebooks[0, 0], points.mean(0), atol=1e-4, rtol=1e-4)
    assert float(weights) == 100


def test_the_same_seed_gives_the_same_codebooks():
    points = cloud()
    assert torch.equal(fitted(points)[0], fitted(points)[0])


def test_too_few_points_and_none_are_refused():
    with pytest.raises(UsageError, match="16 clusters need at least 16 frames, not 10"):
        fitted(cloud(10))
    with pytest.raises(DataError, match="no crop to cluster"):
        fit_rvq([], 2, 4, generator(), max_points=100)


def test_usage_is_exp_of_the_entropy_over_the_size():
    codes = torch.tensor([[0, 1], [1, 1], [2, 1], [3, 1]])
    assert codebook_usage(codes, 4) == pytest.approx([1.0, 0.25])
    assert relative_perplexity(torch.tensor([1.0, 1.0, 0.0, 0.0])) == pytest.approx(0.5)
    assert relative_perplexity(torch.zeros(4)) == 0.0


def test_a_random_projection_gives_the_code_of_the_highest_cosine():
    quantiser, points = RandomProjection(6, 3, 20), cloud(200)
    quantiser.init_weights(generator(1))
    actual = quantiser.encode(points, 2).numpy()
    assert actual.shape == (200, 2)
    for codebook in range(2):
        flat = points.numpy() @ quantiser.maps_QDP[codebook].numpy()
        codes = quantiser.codes_QKP[codebook].numpy()
        cosine = flat @ codes.T / np.linalg.norm(flat, axis=1, keepdims=True) / np.linalg.norm(codes, axis=1)
        assert (cosine.argmax(1) == actual[:, codebook]).mean() > 0.99
    assert (actual[:, 0] != actual[:, 1]).mean() > 0.5
    again = RandomProjection(6, 3, 20)
    again.init_weights(generator(1))
    assert torch.equal(again.maps_QDP, quantiser.maps_QDP)
    # The direction alone counts.
    assert torch.equal(quantiser.encode(10 * points, 2), quantiser.encode(points, 2))


def test_a_projection_has_xaviers_std_and_codes_of_unit_length():
    quantiser = RandomProjection(500, 2, 300)
    quantiser.init_weights(generator())
    assert float(quantiser.maps_QDP.std()) == pytest.approx((2 / 516) ** 0.5, rel=0.02)
    np.testing.assert_allclose(quantiser.codes_QKP.norm(dim=2), 1.0, atol=1e-5)


@pytest.fixture(scope="module")
def learnt():
    rng = np.random.default_rng(0)
    # Forty numbers that only twelve causes stand behind, as neighbouring bands have.
    points = torch.from_numpy(rng.normal(size=(4000, 12)) @ rng.normal(size=(12, 40))).float()
    points = (points - points.mean(0)) / points.std(0)
    quantiser = ProjectedRVQ(40, 4, 32)
    quantiser.init_weights(generator())
    before = float((quantiser.decode(quantiser.encode(points, 4)) - points).abs().mean())
    return quantiser, points, before, quantiser.fit(points, 400, generator(), batch=512)


def test_training_lowers_the_loss_and_the_error_falls_with_each_codebook(learnt):
    quantiser, points, before, losses = learnt
    assert len(losses) == 4
    assert losses[-1] < 0.8 * losses[0]
    errors = [float((quantiser.decode(quantiser.encode(points, count)) - points).abs().mean()) for count in range(1, 5)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.8 * float(points.abs().mean())
    assert errors[-1] < before
    assert min(codebook_usage(quantiser.encode(points, 4), 32)) > 0.5


def test_learnt_codes_are_those_of_a_naive_loop(learnt):
    quantiser, points = learnt[:2]
    residual, codes = points[:300].numpy(), []
    for inward, outward, codebook in zip(*(part.detach().numpy() for part in quantiser.parameters())):
        inner = residual @ inward
        cosine = inner @ codebook.T / np.linalg.norm(inner, axis=1, keepdims=True) / np.linalg.norm(codebook, axis=1)
        codes.append(cosine.argmax(1))
        residual = residual - codebook[codes[-1]] @ outward
    agree = np.stack(codes, axis=1) == quantiser.encode(points[:300], 4).numpy()
    assert agree.mean() > 0.99


def test_training_on_fewer_points_than_codes_is_refused():
    with pytest.raises(UsageError, match="32 codes need at least 32 frames, not 5"):
        ProjectedRVQ(40, 4, 32).fit(torch.zeros(5, 40), 1, generator())
