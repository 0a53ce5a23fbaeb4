"""Retrieval: every clip is a query, all others are ranked by similarity, those with its label are the positives.

Average precision, the reciprocal rank of the first positive, whether one is among the first k, and precision among the
first R, where R is the number of positives [manning2008 §8.4]. A query without a positive has none of these: it stays
in what others search, and is counted apart. Of equally similar clips the earlier one comes first.

Letters: U clips, R ranks.
"""

from __future__ import annotations

import numpy as np

BLOCK_ROWS = 512


def positive_ranks(similarity_U: np.ndarray, is_positive_U: np.ndarray) -> np.ndarray:
    """Return the ranks, from 1 and ascending, that the positives have by descending similarity, `[R]`."""
    order_U = np.argsort(-similarity_U, kind="stable")
    return np.flatnonzero(is_positive_U[order_U]) + 1


def query_scores(rank_R: np.ndarray) -> dict[str, float]:
    """Return the metrics of a query from the ranks of its positives, of which there is at least one."""
    count = len(rank_R)
    return {
        "map": float(np.mean(np.arange(1, count + 1) / rank_R)),
        "mrr": float(1 / rank_R[0]),
        "hit_at_1": float(rank_R[0] <= 1),
        "hit_at_5": float(rank_R[0] <= 5),
        "hit_at_10": float(rank_R[0] <= 10),
        "r_precision": float((rank_R <= count).mean()),
    }


def score_queries(embedding_UD: np.ndarray, labels: list[str | None]) -> list[dict[str, float] | None]:
    """Return the metrics of each clip as a query by cosine similarity; None where it has no positive.

    Args:
        embedding_UD: an embedding of each clip; one that is zero is equally similar to all.
        labels: what a query and its positives share; None for a clip that is only searched.
    """
    length_U1 = np.linalg.norm(embedding_UD.astype(np.float64), axis=1, keepdims=True)
    unit_UD = embedding_UD / np.where(length_U1 > 0, length_U1, 1)
    codes = {label: number for number, label in enumerate(dict.fromkeys(labels)) if label is not None}
    code_U = np.array([codes.get(label, -1) if label is not None else -1 for label in labels])
    scores: list[dict[str, float] | None] = []
    for low in range(0, len(unit_UD), BLOCK_ROWS):
        for row, similarity_U in enumerate(unit_UD[low : low + BLOCK_ROWS] @ unit_UD.T, start=low):
            others_U = np.arange(len(code_U)) != row
            is_positive_U = (code_U[others_U] == code_U[row]) & (code_U[row] >= 0)
            has_positive = bool(is_positive_U.any())
            scores.append(query_scores(positive_ranks(similarity_U[others_U], is_positive_U)) if has_positive else None)
    return scores
