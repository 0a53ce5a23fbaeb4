"""MIREX's weighted key score: 1 for the key, part of a point for a near one (mir_eval, `key.weighted_score`).

A fifth above the truth in the same mode 0.5, relative 0.3, parallel 0.2, anything else 0: `key_weighted`, which MARBLE
reports. MIREX itself has since 2017 given 0.5 for a fifth in either direction: `key_weighted_2017`. mir_eval 0.8.2 has
no such option (its `evaluate` takes and ignores one), so a fifth below is found by asking with the two keys exchanged.

Letters: U scored units, K keys.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

FIFTH = 0.5


def key_weighted(truth_U: np.ndarray, answer_U: np.ndarray, keys: tuple[str, ...]) -> float:
    """Return the mean weighted score; truths and answers are places in `keys`, which are mir_eval's names."""
    return float(np.mean(_table(keys)[np.asarray(truth_U), np.asarray(answer_U)]))


def key_weighted_2017(truth_U: np.ndarray, answer_U: np.ndarray, keys: tuple[str, ...]) -> float:
    """Return the mean weighted score that counts a fifth below as it does a fifth above."""
    above_KK = _table(keys)
    either_KK = np.where(above_KK.T == FIFTH, FIFTH, above_KK)
    return float(np.mean(either_KK[np.asarray(truth_U), np.asarray(answer_U)]))


@lru_cache
def _table(keys: tuple[str, ...]) -> np.ndarray:
    from mir_eval.key import weighted_score

    return np.array([[weighted_score(truth, answer) for answer in keys] for truth in keys])
