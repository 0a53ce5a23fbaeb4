"""k-means on matrix products: k-means++ starts, full Lloyd passes or a stream of mini-batches, dead centroids revived.

HuBERT and MERT learn from cluster numbers, so the clustering is half of the teacher. Everything here is the same for
the same seed and the same order of points, runs where the points are, and counts in single precision under autocast.
`lloyd` makes exact passes over chunks that can be gone through again and again; `mini_batch` sees every chunk once and
moves each centroid to the mean of all points that ever were nearest to it (Sculley, 2010), so that 160,000 hours need
no more memory than one chunk. A centroid that no point is nearest to is moved onto the point farthest from its own.

Letters: N points, D dimensions, K centroids.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from carrara.core.errors import UsageError
from carrara.nn.spectral.framing import float32

CHUNK = 8192


@dataclass(frozen=True)
class Clustering:
    """Centroids and how they came out.

    Attributes:
        centroids_KD: in single precision.
        inertia: mean squared distance of a point to its centroid, over the last pass (mini-batches: while it ran).
        entropy: of the clusters' shares of the points, in nats; at most ln K.
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
        """Return the numbers for a journal, without the centroids."""
        return {
            "k": len(self.centroids_KD),
            "inertia": self.inertia,
            "entropy": self.entropy,
            "usage": math.exp(self.entropy) / len(self.centroids_KD),
            "dead": self.dead,
            "points": self.points,
            "passes": self.passes,
        }


def assign(points_ND: Tensor, centroids_KD: Tensor) -> Tensor:
    """Return the number of the nearest centroid of each point, `[N]` int64; the lowest number where two are as near."""
    return _nearest(points_ND, centroids_KD)[0]


def k_means_plus_plus(points_ND: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Return k of the points, spread out: each is drawn with a chance that grows with its squared distance so far.

    Of several candidates a draw takes the one that leaves the smallest inertia (2 + ln k of them, as scikit-learn).

    Raises:
        UsageError: there are fewer points than centroids.
    """
    if not 1 <= k <= len(points_ND):
        raise UsageError(f"{k} clusters cannot be had from {len(points_ND)} frames; use a smaller k or more audio")
    with float32(points_ND):
        points_ND = points_ND.float()
        squares_N = points_ND.square().sum(dim=1)
        chosen = [int(torch.randint(len(points_ND), (1,), generator=generator))]
        nearest_N = _squared(points_ND, squares_N, points_ND[chosen]).squeeze(1)
        tries = 2 + int(math.log(k))
        while len(chosen) < k:
            ends_N = nearest_N.double().cumsum(0)
            draws_C = torch.rand(tries, generator=generator, dtype=torch.float64).to(ends_N.device) * ends_N[-1]
            picked_C = torch.searchsorted(ends_N, draws_C).clamp(max=len(points_ND) - 1)
            left_NC = torch.minimum(nearest_N[:, None], _squared(points_ND, squares_N, points_ND[picked_C]))
            best = int(left_NC.sum(dim=0).argmin())
            chosen.append(int(picked_C[best]))
            nearest_N = left_NC[:, best].contiguous()
        return points_ND[chosen]


def lloyd(chunks: Iterable[Tensor], start_KD: Tensor, iterations: int = 100, tolerance: float = 1e-4) -> Clustering:
    """Return the centroids after full passes: every point to its nearest centroid, every centroid to its points' mean.

    Args:
        chunks: the points, `[n, D]` a chunk, in the same order each time that it is gone through.
        start_KD: the centroids to start from.
        iterations: most passes that move centroids; one more pass measures the result.
        tolerance: stop when a pass lowers the inertia by a smaller share than this; 0: when no point changes cluster.
    """
    centroids_KD, before = start_KD.float().clone(), math.inf
    for passes in range(1, iterations + 2):
        tally = _Tally.empty(centroids_KD)
        for chunk_ND in chunks:
            tally.add(chunk_ND, centroids_KD)
        inertia = tally.inertia / max(tally.points, 1)
        settled = before - inertia <= tolerance * before if math.isfinite(before) else False
        if passes > iterations or inertia == 0.0 or (settled and not tally.dead()):
            break
        before = inertia
        moved_KD = tally.means(centroids_KD)
        if torch.equal(moved_KD, centroids_KD):
            break
        centroids_KD = moved_KD
    return tally.clustering(centroids_KD, passes)


def mini_batch(chunks: Iterable[Tensor], start_KD: Tensor) -> Clustering:
    """Return the centroids after one pass over chunks that are seen once each.

    A centroid is the mean of all points that were nearest to it when their chunk came; one that has had no point for
    its first chunks takes a far point of the chunk and starts anew.
    """
    centroids_KD = start_KD.float().clone()
    weights_K = torch.zeros(len(centroids_KD), device=centroids_KD.device)
    whole = _Tally.empty(centroids_KD)
    for chunk_ND in chunks:
        tally = _Tally.empty(centroids_KD)
        tally.add(chunk_ND, centroids_KD)
        whole.counts_K += tally.counts_K
        whole.inertia, whole.points = whole.inertia + tally.inertia, whole.points + tally.points
        weights_K += tally.counts_K
        share_K1 = (tally.counts_K / weights_K.clamp(min=1))[:, None]
        means_KD = tally.sums_KD / tally.counts_K.clamp(min=1)[:, None]
        centroids_KD = torch.lerp(centroids_KD, means_KD.to(centroids_KD), share_K1.to(centroids_KD))
        unused_K = weights_K == 0
        centroids_KD[unused_K] = tally.farthest(int(unused_K.sum()), centroids_KD)
    return whole.clustering(centroids_KD, 1)


@dataclass
class _Tally:
    """What one pass adds up: sums and counts a cluster, the inertia, and the points farthest from their centroids."""

    sums_KD: Tensor
    counts_K: Tensor
    far_ND: Tensor
    far_N: Tensor
    inertia: float = 0.0
    points: int = 0

    @classmethod
    def empty(cls, centroids_KD: Tensor) -> _Tally:
        return cls(
            torch.zeros_like(centroids_KD, dtype=torch.float64),
            torch.zeros(len(centroids_KD), device=centroids_KD.device, dtype=torch.float64),
            centroids_KD[:0],
            centroids_KD.new_zeros(0),
        )

    def add(self, chunk_ND: Tensor, centroids_KD: Tensor) -> None:
        for points_ND in chunk_ND.split(CHUNK):
            points_ND = points_ND.float()
            codes_N, distances_N = _nearest(points_ND, centroids_KD)
            self.sums_KD += _sums(points_ND, codes_N, len(centroids_KD))
            self.counts_K += torch.bincount(codes_N, minlength=len(centroids_KD))
            self.inertia += float(distances_N.sum(dtype=torch.float64))
            self.points += len(points_ND)
            far_ND, far_N = torch.cat([self.far_ND, points_ND]), torch.cat([self.far_N, distances_N])
            keep_N = far_N.topk(min(len(centroids_KD), len(far_N))).indices
            self.far_ND, self.far_N = far_ND[keep_N], far_N[keep_N]

    def dead(self) -> int:
        return int((self.counts_K == 0).sum())

    def farthest(self, many: int, centroids_KD: Tensor) -> Tensor:
        """Return the so many farthest points of the pass; fewer points than that are gone through again."""
        if not len(self.far_ND):
            return centroids_KD[:many]
        return self.far_ND[torch.arange(many, device=self.far_ND.device) % len(self.far_ND)]

    def means(self, centroids_KD: Tensor) -> Tensor:
        """Return each cluster's mean; a dead one is put onto one of the points farthest from their own centroids."""
        means_KD = (self.sums_KD / self.counts_K.clamp(min=1)[:, None]).float()
        empty_K = self.counts_K == 0
        means_KD[empty_K] = self.farthest(int(empty_K.sum()), centroids_KD)
        return means_KD

    def clustering(self, centroids_KD: Tensor, passes: int) -> Clustering:
        shares_K = self.counts_K / max(self.points, 1)
        entropy = float(-(shares_K * shares_K.clamp(min=1e-300).log()).sum())
        inertia = self.inertia / max(self.points, 1)
        return Clustering(centroids_KD, inertia, entropy, self.dead(), self.points, passes)


def _sums(points_ND: Tensor, codes_N: Tensor, k: int) -> Tensor:
    if points_ND.is_cuda:
        # Scattered additions come in any order on a GPU; a product with one-hot rows adds in a fixed one.
        one_hot_NK = torch.nn.functional.one_hot(codes_N, k).to(points_ND.dtype)
        return (one_hot_NK.T @ points_ND).double()
    sums_KD = points_ND.new_zeros(k, points_ND.shape[1], dtype=torch.float64)
    return sums_KD.index_add_(0, codes_N, points_ND.double())


def _squared(points_ND: Tensor, squares_N: Tensor, others_KD: Tensor) -> Tensor:
    cross_NK = torch.addmm(others_KD.square().sum(dim=1), points_ND, others_KD.T, alpha=-2.0)
    return (cross_NK + squares_N[:, None]).clamp_(min=0.0)


def _nearest(points_ND: Tensor, centroids_KD: Tensor) -> tuple[Tensor, Tensor]:
    """Return each point's nearest centroid and its squared distance to it, in chunks, in single precision."""
    with float32(points_ND):
        centroids_KD = centroids_KD.float()
        # Distances are measured from the centroids' mean: far from the origin single precision would eat them.
        middle_D = centroids_KD.mean(dim=0)
        centred_KD = centroids_KD - middle_D
        parts = [_nearest_of(part_ND.float() - middle_D, centred_KD) for part_ND in points_ND.split(CHUNK)]
    return torch.cat([codes_N for codes_N, _ in parts]), torch.cat([distances_N for _, distances_N in parts])


def _nearest_of(points_ND: Tensor, centroids_KD: Tensor) -> tuple[Tensor, Tensor]:
    scores_NK = torch.addmm(centroids_KD.square().sum(dim=1), points_ND, centroids_KD.T, alpha=-2.0)
    least_N, codes_N = scores_NK.min(dim=1)
    return codes_N, (least_N + points_ND.square().sum(dim=1)).clamp_(min=0.0)


def gathered(chunks: Iterable[Tensor], most: int) -> tuple[list[Tensor], Iterator[Tensor]]:
    """Return the first chunks, of at most so many points together unless one chunk is larger, and the rest unread."""
    rest, first, count = iter(chunks), [], 0
    for chunk_ND in rest:
        first.append(chunk_ND)
        count += len(chunk_ND)
        if count >= most:
            break
    return first, rest
