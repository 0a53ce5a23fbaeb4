"""Residual vector quantisation by k-means, book after book: each book clusters what the books before it left over.

A point becomes Q numbers instead of one: the nearest centroid of the first book, then that of the second to what
remains, and so on (Juang and Gray, 1982; in audio codecs SoundStream, Zeghidour et al. 2021, and EnCodec, Défossez et
al. 2022). With 8 books of 1024 a frame has 80 bits, and the first books hold most of what is heard. As a teacher it
needs no training loop and has the layout of EnCodec's labels (pretraining.md, section 5.3).

The first points that fit in memory are clustered by full Lloyd passes, a book at a time. Points after that are seen
once: each moves the centroids of all books to the running mean of everything that was ever nearest to them, from the
first book to the last, each book seeing what the moved ones before it leave over. Nothing is learnt by gradient.

Letters: N points, D dimensions, Q books, K centroids a book.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from carrara.core.errors import DataError
from carrara.nn.quantize.kmeans import assign, gathered, k_means_plus_plus, lloyd
from carrara.nn.spectral.framing import float32

SAMPLE_POINTS = 20_000


def encode(points_ND: Tensor, books_QKD: Tensor) -> Tensor:
    """Return the codes, int64 `[N, Q]`; code q is the nearest of book q to what the books before it left over."""
    with float32(points_ND):
        residual_ND, codes = points_ND.float(), []
        for book_KD in books_QKD:
            codes.append(assign(residual_ND, book_KD))
            residual_ND = residual_ND - book_KD[codes[-1]]
        return torch.stack(codes, dim=1)


def decode(codes_NQ: Tensor, books_QKD: Tensor) -> Tensor:
    """Return the sum of the centroids that the codes name, `[N, D]`; of the first books where fewer codes are given."""
    points_ND = torch.zeros(len(codes_NQ), books_QKD.shape[2], device=books_QKD.device)
    for codes_N, book_KD in zip(codes_NQ.unbind(dim=1), books_QKD):
        points_ND = points_ND + book_KD[codes_N]
    return points_ND


def usage(codes_NQ: Tensor, size: int) -> list[float]:
    """Return for each book how evenly its codes are used: exp of their entropy over the size, from 1/size to 1."""
    return [evenness(torch.bincount(codes_N, minlength=size)) for codes_N in codes_NQ.unbind(dim=1)]


def evenness(counts_K: Tensor) -> float:
    """Return exp of the entropy of some counts over their number: 1 where all are alike, 0 where there are none."""
    shares_K = counts_K.double() / counts_K.double().sum().clamp(min=1e-12)
    entropy = -(shares_K * shares_K.clamp(min=1e-300).log()).sum()
    return float(entropy.exp()) / len(counts_K) if float(shares_K.sum()) else 0.0


def counted(points_ND: Tensor, codes_N: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return how many points have each code, `[K]`, and the sums of those points, `[K, D]`; the same on every run."""
    # Scattered additions come in any order on a GPU; a product with one-hot rows adds in a fixed one.
    one_hot_NK = functional.one_hot(codes_N, size).to(points_ND.dtype)
    return one_hot_NK.sum(dim=0), one_hot_NK.T @ points_ND


def fit(
    chunks: Iterable[Tensor], books: int, size: int, generator: torch.Generator, memory: int, iterations: int = 20
) -> tuple[Tensor, dict[str, Any]]:
    """Return the books, float32 `[Q, K, D]`, and a report of lists with one number a book.

    The report holds `points`, and a book: `left` (share of the points' variance that remains after it), `usage` (exp of
    the codes' entropy over the size), `dead` (centroids that no point is nearest to), `passes`.

    Args:
        chunks: the points, `[n, D]` a chunk, gone through once.
        books, size: their number, and centroids in each.
        generator: of the starts.
        memory: most points that are held for full passes.
        iterations: most Lloyd passes a book.

    Raises:
        DataError: there is no point.
        UsageError: fewer points than centroids.
    """
    first, rest = gathered(chunks, memory)
    if not first:
        raise DataError("there is no crop to cluster; give a corpus with readable audio in it")
    residual_ND = torch.cat(first).float()
    variance = float(residual_ND.var(dim=0, correction=0).sum().clamp(min=1e-12))
    centroids, weights = [], []
    report: dict[str, Any] = {"points": len(residual_ND), "left": [], "usage": [], "dead": [], "passes": []}
    for _ in range(books):
        drawn_N = torch.randperm(len(residual_ND), generator=generator)[: max(SAMPLE_POINTS, 2 * size)]
        start_KD = k_means_plus_plus(residual_ND[drawn_N.to(residual_ND.device)], size, generator)
        found = lloyd([residual_ND], start_KD, iterations)
        codes_N = assign(residual_ND, found.centroids_KD)
        residual_ND = residual_ND - found.centroids_KD[codes_N]
        centroids.append(found.centroids_KD)
        weights.append(torch.bincount(codes_N, minlength=size).float())
        report["left"].append(float(residual_ND.square().sum(dim=1).mean()) / variance)
        report["usage"].append(found.report()["usage"])
        report["dead"].append(found.dead)
        report["passes"].append(found.passes)
    books_QKD, weights_QK = torch.stack(centroids), torch.stack(weights)
    for chunk_ND in rest:
        follow(chunk_ND, books_QKD, weights_QK)
        report["points"] += len(chunk_ND)
    return books_QKD, report


def follow(points_ND: Tensor, books_QKD: Tensor, weights_QK: Tensor) -> None:
    """Move the centroids, in place, to the means of all points so far, these among them.

    Args:
        points_ND: points not seen before.
        books_QKD: what is moved.
        weights_QK: number of points that each centroid is the mean of; these are added.
    """
    with float32(points_ND):
        residual_ND = points_ND.float()
        for book_KD, weights_K in zip(books_QKD, weights_QK):
            codes_N = assign(residual_ND, book_KD)
            counts_K, sums_KD = counted(residual_ND, codes_N, len(book_KD))
            weights_K += counts_K
            means_KD = sums_KD / counts_K.clamp(min=1)[:, None]
            book_KD.lerp_(means_KD, (counts_K / weights_K.clamp(min=1))[:, None])
            residual_ND = residual_ND - book_KD[codes_N]
