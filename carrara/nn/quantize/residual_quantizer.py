"""Residual vector quantization by k-means: each codebook clusters the residual of the codebooks before it.

A point is coded as Q numbers: the nearest centroid of the first codebook, the centroid of the second nearest to the
residual, and so on [juang1982] (in audio codecs [zeghidour2021], [defossez2022]). With 8 codebooks of 1024 a frame has
80 bits, and the first codebooks hold most of what is audible. As a pre-training target it needs no training loop and
has the layout of EnCodec's labels [notes/pretraining §5.3].

The first points that fit in memory are clustered by full Lloyd passes, one codebook at a time. Later points are read
once: each moves the centroids of all codebooks, first to last, to the running mean of every point that was ever nearest
to them. No gradient is involved.

Letters: N points, D dimensions, Q codebooks, K centroids of a codebook.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from carrara.core.errors import DataError
from carrara.nn.quantize.kmeans import fit_lloyd, kmeans_plusplus, nearest_centroids, take_chunks
from carrara.nn.spectral.framing import no_autocast

SAMPLE_POINTS = 20_000


def encode_rvq(points_ND: Tensor, codebooks_QKD: Tensor) -> Tensor:
    """Return the codes, int64 `[N, Q]`; code q is the centroid of codebook q nearest to the residual so far."""
    with no_autocast(points_ND):
        residual_ND, codes = points_ND.float(), []
        for codebook_KD in codebooks_QKD:
            codes.append(nearest_centroids(residual_ND, codebook_KD))
            residual_ND = residual_ND - codebook_KD[codes[-1]]
        return torch.stack(codes, dim=1)


def decode_rvq(codes_NQ: Tensor, codebooks_QKD: Tensor) -> Tensor:
    """Return the sum of the coded centroids, `[N, D]`; with fewer than Q codes, the first codebooks are summed."""
    points_ND = torch.zeros(len(codes_NQ), codebooks_QKD.shape[2], device=codebooks_QKD.device)
    for codes_N, codebook_KD in zip(codes_NQ.unbind(dim=1), codebooks_QKD):
        points_ND = points_ND + codebook_KD[codes_N]
    return points_ND


def codebook_usage(codes_NQ: Tensor, codebook_size: int) -> list[float]:
    """Return the relative perplexity of each codebook's codes."""
    return [relative_perplexity(torch.bincount(codes_N, minlength=codebook_size)) for codes_N in codes_NQ.unbind(dim=1)]


def relative_perplexity(counts_K: Tensor) -> float:
    """Return exp(entropy) of counts over their number: 1 if all are equal, 1/K if one has all, 0 if there are none."""
    fractions_K = counts_K.double() / counts_K.double().sum().clamp(min=1e-12)
    entropy = -(fractions_K * fractions_K.clamp(min=1e-300).log()).sum()
    return float(entropy.exp()) / len(counts_K) if float(fractions_K.sum()) else 0.0


def sum_by_code(points_ND: Tensor, codes_N: Tensor, codebook_size: int) -> tuple[Tensor, Tensor]:
    """Return the number of points of each code, `[K]`, and the sums of those points, `[K, D]`; deterministic."""
    # Scattered additions have no fixed order on a GPU; a product with a one-hot matrix has one.
    one_hot_NK = functional.one_hot(codes_N, codebook_size).to(points_ND.dtype)
    return one_hot_NK.sum(dim=0), one_hot_NK.T @ points_ND


def fit_rvq(
    chunks: Iterable[Tensor],
    num_codebooks: int,
    codebook_size: int,
    generator: torch.Generator,
    max_points: int,
    iterations: int = 20,
) -> tuple[Tensor, dict[str, Any]]:
    """Return the codebooks, float32 `[Q, K, D]`, and a report.

    The report holds `points` and, in lists with one number per codebook: `left` (fraction of the points' variance that
    remains after it), `usage` (relative perplexity), `dead` (centroids that no point is nearest to), `passes`.

    Args:
        chunks: points, in chunks of `[n, D]`, read once.
        num_codebooks: number of codebooks.
        codebook_size: centroids of a codebook.
        generator: generator of the initial centroids.
        max_points: maximum number of points held in memory for full passes.
        iterations: maximum number of Lloyd passes for a codebook.

    Raises:
        DataError: there is no point.
        UsageError: there are fewer points than centroids.
    """
    first, rest = take_chunks(chunks, max_points)
    if not first:
        raise DataError("there is no crop to cluster; give a corpus with readable audio in it")
    residual_ND = torch.cat(first).float()
    variance = float(residual_ND.var(dim=0, correction=0).sum().clamp(min=1e-12))
    centroids, weights = [], []
    report: dict[str, Any] = {"points": len(residual_ND), "left": [], "usage": [], "dead": [], "passes": []}
    for _ in range(num_codebooks):
        sample_N = torch.randperm(len(residual_ND), generator=generator)[: max(SAMPLE_POINTS, 2 * codebook_size)]
        start_KD = kmeans_plusplus(residual_ND[sample_N.to(residual_ND.device)], codebook_size, generator)
        clustering = fit_lloyd([residual_ND], start_KD, iterations)
        codes_N = nearest_centroids(residual_ND, clustering.centroids_KD)
        residual_ND = residual_ND - clustering.centroids_KD[codes_N]
        centroids.append(clustering.centroids_KD)
        weights.append(torch.bincount(codes_N, minlength=codebook_size).float())
        report["left"].append(float(residual_ND.square().sum(dim=1).mean()) / variance)
        report["usage"].append(clustering.report()["usage"])
        report["dead"].append(clustering.dead)
        report["passes"].append(clustering.passes)
    codebooks_QKD, weights_QK = torch.stack(centroids), torch.stack(weights)
    for chunk_ND in rest:
        update_rvq(chunk_ND, codebooks_QKD, weights_QK)
        report["points"] += len(chunk_ND)
    return codebooks_QKD, report


def update_rvq(points_ND: Tensor, codebooks_QKD: Tensor, weights_QK: Tensor) -> None:
    """Move the centroids, in place, to the means of all points so far including new ones.

    Args:
        points_ND: new points.
        codebooks_QKD: centroids that move.
        weights_QK: number of points that each centroid is the mean of; the new ones are added.
    """
    with no_autocast(points_ND):
        residual_ND = points_ND.float()
        for codebook_KD, weights_K in zip(codebooks_QKD, weights_QK):
            codes_N = nearest_centroids(residual_ND, codebook_KD)
            counts_K, sums_KD = sum_by_code(residual_ND, codes_N, len(codebook_KD))
            weights_K += counts_K
            means_KD = sums_KD / counts_K.clamp(min=1)[:, None]
            codebook_KD.lerp_(means_KD, (counts_K / weights_K.clamp(min=1))[:, None])
            residual_ND = residual_ND - codebook_KD[codes_N]
