"""k-means against scikit-learn from the same starts, against a naive loop, and at its edges."""

import math

import numpy as np
import pytest
import torch
from sklearn import cluster

from carrara.core.errors import UsageError
from carrara.nn.quantize.kmeans import fit_lloyd, fit_mini_batch, kmeans_plusplus, nearest_centroids, take_chunks


def blobs(points=3000, dimensions=8, groups=12, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(scale=3, size=(groups, dimensions))
    return torch.from_numpy(centres[rng.integers(groups, size=points)] + rng.normal(size=(points, dimensions))).float()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_nearest_centroid_is_that_of_a_naive_search():
    points, centroids = blobs(500) + 100, blobs(40, seed=1) + 100
    naive = [int(((centroids.double() - point.double()) ** 2).sum(1).argmin()) for point in points]
    assert nearest_centroids(points, centroids).tolist() == naive
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert nearest_centroids(points, centroids).tolist() == naive


def test_lloyd_ends_where_scikit_learn_ends_from_the_same_start():
    points = blobs()
    start = kmeans_plusplus(points, 12, generator())
    ours = fit_lloyd(points.split(700), start, iterations=300, tolerance=0)
    theirs = cluster.KMeans(12, init=start.numpy(), n_init=1, max_iter=300, tol=0, algorithm="lloyd").fit(
        points.numpy()
    )
    torch.testing.assert_close(ours.centroids_KD, torch.from_numpy(theirs.cluster_centers_), atol=1e-4, rtol=1e-4)
    assert ours.inertia == pytest.approx(theirs.inertia_ / len(points), rel=1e-5)
    assert nearest_centroids(points, ours.centroids_KD).tolist() == theirs.labels_.tolist()
    fractions = np.bincount(theirs.labels_, minlength=12) / len(points)
    assert ours.entropy == pytest.approx(-(fractions * np.log(fractions)).sum(), rel=1e-6)


def test_kmeans_plusplus_is_as_good_as_scikit_learns():
    points = blobs(groups=30)
    ours, theirs = [], []
    for seed in range(10):
        ours.append(fit_lloyd([points], kmeans_plusplus(points, 30, generator(seed)), iterations=0).inertia)
        start = torch.from_numpy(cluster.kmeans_plusplus(points.numpy(), 30, random_state=seed)[0])
        theirs.append(fit_lloyd([points], start, iterations=0).inertia)
    assert np.mean(ours) < 1.05 * np.mean(theirs)


def test_a_pass_of_mini_batches_is_near_scikit_learns():
    points = blobs(20_000, groups=25)
    chunks = points.split(1000)
    ours = fit_mini_batch(chunks, kmeans_plusplus(points[:3000], 25, generator()))
    theirs = cluster.MiniBatchKMeans(25, batch_size=1000, n_init=3, random_state=0).fit(points.numpy())
    inertia = fit_lloyd(chunks, ours.centroids_KD, iterations=0).inertia
    assert inertia < 1.05 * theirs.inertia_ / len(points)
    assert ours.points == len(points)


def test_a_mini_batch_centroid_is_the_mean_of_its_points():
    points = blobs(1000, groups=1)
    result = fit_mini_batch(points.split(64), points[:1])
    torch.testing.assert_close(result.centroids_KD[0], points.mean(0), atol=1e-4, rtol=1e-4)


def test_the_same_seed_gives_the_same_centroids_bit_for_bit():
    points = blobs()
    runs = [fit_lloyd(points.split(512), kmeans_plusplus(points, 20, generator(3))).centroids_KD for _ in range(2)]
    assert torch.equal(*runs)
    assert not torch.equal(runs[0], fit_lloyd([points], kmeans_plusplus(points, 20, generator(4))).centroids_KD)


@pytest.mark.parametrize("fit", [lambda chunks, start: fit_lloyd(chunks, start), fit_mini_batch])
def test_a_centroid_without_points_is_moved_to_a_point(fit):
    points = blobs(2000, groups=4)
    start = torch.cat([points[:3], torch.full((2, points.shape[1]), 1e4)])
    result = fit(points.split(100), start)
    assert torch.bincount(nearest_centroids(points, result.centroids_KD), minlength=5).min() > 0
    assert fit_lloyd([points], result.centroids_KD, iterations=0).dead == 0


def test_more_clusters_than_distinct_points_leave_dead_centroids_that_are_reported():
    points = torch.tensor([[0.0], [1.0]]).repeat(10, 1)
    result = fit_lloyd([points], kmeans_plusplus(points, 4, generator()))
    assert result.inertia == 0
    assert result.dead == 2
    assert result.report()["usage"] == pytest.approx(math.exp(math.log(2)) / 4)


def test_more_clusters_than_frames_are_refused():
    with pytest.raises(UsageError, match="9 clusters need at least 9 frames, not 8"):
        kmeans_plusplus(torch.zeros(8, 2), 9, generator())


def test_take_chunks_stops_at_the_limit_and_keeps_every_chunk():
    first, rest = take_chunks(iter([torch.full((4, 1), float(i)) for i in range(5)]), 10)
    assert len(first) == 3
    assert [float(chunk[0]) for chunk in rest] == [3.0, 4.0]
