"""k-means on matrix products: k-means++ starts, full Lloyd passes or a stream of mini-batches, dead centroids revived.

HuBERT and MERT learn from cluster numbers, so the clustering is half of the teacher. Results depend only on the seed
and the order of points; computation runs on the points' device, in single precision under autocast too. `fit_lloyd`
makes exact passes over chunks that can be iterated repeatedly; `fit_mini_batch` reads every chunk once and moves each
centroid to the mean of all points that were ever nearest to it [sculley2010], so 160,000 hours need no more memory
than one chunk. A centroid that no point is nearest to moves onto the point farthest from its own centroid.

Letters: N points, D dimensions, K centroids.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from carrara.core.errors import UsageError
from carrara.nn.spectral.framing import no_autocast

CHUNK = 8192


@dataclass(frozen=True)
class Clustering:
    """The result of a clustering.

    Attributes:
        centroids_KD: centroids in single precision.
        inertia: mean squared distance of a point to its centroid over the last pass (mini-batches: during the pass).
        entropy: entropy of the clusters' fractions of the points, in nats; at most ln K.
        dead: number of centroids that no point is nearest to.
        points: number of points of the pass.
        passes: number of passes over the points.
    """

    centroids_KD: Tensor
    inertia: float
    entropy: float
    dead: int
    points: int
    passes: int

    def report(self) -> dict[str, float]:
        """Return the numbers for a log, without the centroids."""
        return {
            "k": len(self.centroids_KD),
            "inertia": self.inertia,
            "entropy": self.entropy,
            "usage": math.exp(self.entropy) / len(self.centroids_KD),
            "dead": self.dead,
            "points": self.points,
            "passes": self.passes,
        }


def nearest_centroids(points_ND: Tensor, centroids_KD: Tensor) -> Tensor:
    """Return the index of the nearest centroid of each point, `[N]` int64; the lowest index of a tie."""
    return _nearest(points_ND, centroids_KD)[0]


def kmeans_plusplus(points_ND: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Return k of the points, drawn with a probability proportional to their squared distance to those before.

    Each draw takes the best of 2 + ln k candidates, the one that leaves the smallest inertia, as scikit-learn does.

    Raises:
        UsageError: there are fewer points than centroids.
    """
    if not 1 <= k <= len(points_ND):
        raise UsageError(f"{k} clusters need at least {k} frames, not {len(points_ND)}; use a smaller k or more audio")
    with no_autocast(points_ND):
        points_ND = points_ND.float()
        squares_N = points_ND.square().sum(dim=1)
        chosen = [int(torch.randint(len(points_ND), (1,), generator=generator))]
        nearest_N = _squared_distances(points_ND, squares_N, points_ND[chosen]).squeeze(1)
        candidates = 2 + int(math.log(k))
        while len(chosen) < k:
            cumulative_N = nearest_N.double().cumsum(0)
            uniform_C = torch.rand(candidates, generator=generator, dtype=torch.float64).to(cumulative_N.device)
            indices_C = torch.searchsorted(cumulative_N, uniform_C * cumulative_N[-1]).clamp(max=len(points_ND) - 1)
            distances_NC = _squared_distances(points_ND, squares_N, points_ND[indices_C])
            distances_NC = torch.minimum(nearest_N[:, None], distances_NC)
            best = int(distances_NC.sum(dim=0).argmin())
            chosen.append(int(indices_C[best]))
            nearest_N = distances_NC[:, best].contiguous()
        return points_ND[chosen]


def fit_lloyd(chunks: Iterable[Tensor], start_KD: Tensor, iterations: int = 100, tolerance: float = 1e-4) -> Clustering:
    """Return the centroids after full passes: every point to its nearest centroid, every centroid to its points' mean.

    Args:
        chunks: points, `[n, D]` a chunk, in the same order at each iteration.
        start_KD: initial centroids.
        iterations: most passes that move centroids; one more pass measures the result.
        tolerance: stop when a pass lowers the inertia by a smaller fraction than this; with 0, when no point changes
            its cluster.
    """
    centroids_KD, previous = start_KD.float().clone(), math.inf
    for passes in range(1, iterations + 2):
        sums = _ClusterSums(centroids_KD)
        for chunk_ND in chunks:
            sums.add(chunk_ND, centroids_KD)
        inertia = sums.inertia / max(sums.points, 1)
        converged = math.isfinite(previous) and previous - inertia <= tolerance * previous
        if passes > iterations or inertia == 0.0 or (converged and not sums.dead):
            break
        previous = inertia
        moved_KD = sums.means(centroids_KD)
        if torch.equal(moved_KD, centroids_KD):
            break
        centroids_KD = moved_KD
    return sums.clustering(centroids_KD, passes)


def fit_mini_batch(chunks: Iterable[Tensor], start_KD: Tensor) -> Clustering:
    """Return the centroids after one pass over chunks that are read once each.

    A centroid is the mean of all points that were nearest to it when their chunk came; a centroid that has had no
    point so far restarts from a far point of the chunk.
    """
    centroids_KD = start_KD.float().clone()
    weights_K = torch.zeros(len(centroids_KD), device=centroids_KD.device)
    total = _ClusterSums(centroids_KD)
    for chunk_ND in chunks:
        sums = _ClusterSums(centroids_KD)
        sums.add(chunk_ND, centroids_KD)
        total.counts_K += sums.counts_K
        total.inertia, total.points = total.inertia + sums.inertia, total.points + sums.points
        weights_K += sums.counts_K
        fraction_K1 = (sums.counts_K / weights_K.clamp(min=1))[:, None]
        means_KD = sums.sums_KD / sums.counts_K.clamp(min=1)[:, None]
        centroids_KD = torch.lerp(centroids_KD, means_KD.to(centroids_KD), fraction_K1.to(centroids_KD))
        unused_K = weights_K == 0
        centroids_KD[unused_K] = sums.farthest(int(unused_K.sum()), centroids_KD)
    return total.clustering(centroids_KD, 1)


class _ClusterSums:
    """Sums and counts of a pass for each cluster, its inertia, and the points farthest from their centroids."""

    def __init__(self, centroids_KD: Tensor) -> None:
        self.sums_KD = torch.zeros_like(centroids_KD, dtype=torch.float64)
        self.counts_K = torch.zeros(len(centroids_KD), device=centroids_KD.device, dtype=torch.float64)
        self.far_ND, self.far_N = centroids_KD[:0], centroids_KD.new_zeros(0)
        self.inertia, self.points = 0.0, 0

    def add(self, chunk_ND: Tensor, centroids_KD: Tensor) -> None:
        for points_ND in chunk_ND.split(CHUNK):
            points_ND = points_ND.float()
            codes_N, distances_N = _nearest(points_ND, centroids_KD)
            self.sums_KD += _sum_by_cluster(points_ND, codes_N, len(centroids_KD))
            self.counts_K += torch.bincount(codes_N, minlength=len(centroids_KD))
            self.inertia += float(distances_N.sum(dtype=torch.float64))
            self.points += len(points_ND)
            far_ND, far_N = torch.cat([self.far_ND, points_ND]), torch.cat([self.far_N, distances_N])
            keep_N = far_N.topk(min(len(centroids_KD), len(far_N))).indices
            self.far_ND, self.far_N = far_ND[keep_N], far_N[keep_N]

    @property
    def dead(self) -> int:
        return int((self.counts_K == 0).sum())

    def farthest(self, count: int, centroids_KD: Tensor) -> Tensor:
        """Return the `count` farthest points of the pass, repeated where there are fewer points."""
        if not len(self.far_ND):
            return centroids_KD[:count]
        return self.far_ND[torch.arange(count, device=self.far_ND.device) % len(self.far_ND)]

    def means(self, centroids_KD: Tensor) -> Tensor:
        """Return each cluster's mean; a dead cluster gets one of the points farthest from their own centroids."""
        means_KD = (self.sums_KD / self.counts_K.clamp(min=1)[:, None]).float()
        empty_K = self.counts_K == 0
        means_KD[empty_K] = self.farthest(int(empty_K.sum()), centroids_KD)
        return means_KD

    def clustering(self, centroids_KD: Tensor, passes: int) -> Clustering:
        fractions_K = self.counts_K / max(self.points, 1)
        entropy = float(-(fractions_K * fractions_K.clamp(min=1e-300).log()).sum())
        inertia = self.inertia / max(self.points, 1)
        return Clustering(centroids_KD, inertia, entropy, self.dead, self.points, passes)


def _sum_by_cluster(points_ND: Tensor, codes_N: Tensor, k: int) -> Tensor:
    if points_ND.is_cuda:
        # Scattered additions have no fixed order on a GPU; a product with a one-hot matrix has one.
        one_hot_NK = torch.nn.functional.one_hot(codes_N, k).to(points_ND.dtype)
        return (one_hot_NK.T @ points_ND).double()
    sums_KD = points_ND.new_zeros(k, points_ND.shape[1], dtype=torch.float64)
    return sums_KD.index_add_(0, codes_N, points_ND.double())


def _squared_distances(points_ND: Tensor, squares_N: Tensor, others_KD: Tensor) -> Tensor:
    cross_NK = torch.addmm(others_KD.square().sum(dim=1), points_ND, others_KD.T, alpha=-2.0)
    return (cross_NK + squares_N[:, None]).clamp_(min=0.0)


def _nearest(points_ND: Tensor, centroids_KD: Tensor) -> tuple[Tensor, Tensor]:
    """Return each point's nearest centroid and its squared distance to it, in chunks, in single precision."""
    codes, distances = [], []
    with no_autocast(points_ND):
        centroids_KD = centroids_KD.float()
        # Distances are measured from the centroids' mean: far from the origin single precision would lose them.
        mean_D = centroids_KD.mean(dim=0)
        centred_KD = centroids_KD - mean_D
        for chunk_ND in points_ND.split(CHUNK):
            chunk_ND = chunk_ND.float() - mean_D
            scores_NK = torch.addmm(centred_KD.square().sum(dim=1), chunk_ND, centred_KD.T, alpha=-2.0)
            lowest_N, codes_N = scores_NK.min(dim=1)
            codes.append(codes_N)
            distances.append((lowest_N + chunk_ND.square().sum(dim=1)).clamp_(min=0.0))
    return torch.cat(codes), torch.cat(distances)


def take_chunks(chunks: Iterable[Tensor], max_points: int) -> tuple[list[Tensor], Iterator[Tensor]]:
    """Return the first chunks, up to the one that reaches `max_points` points, and an iterator over the rest."""
    rest, first, count = iter(chunks), [], 0
    for chunk_ND in rest:
        first.append(chunk_ND)
        count += len(chunk_ND)
        if count >= max_points:
            break
    return first, rest
