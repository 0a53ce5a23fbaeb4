"""MIREX's weighted key score: 1 for the right key, part of a point for a related one (`mir_eval.key.weighted_score`).

`key_weighted`, which MARBLE reports: 0.5 for a fifth above in the same mode, 0.3 for the relative key, 0.2 for the
parallel key, else 0. `key_weighted_2017`: 0.5 for a fifth below too, as MIREX has scored since 2017. mir_eval 0.8.2 has
no such option (its `evaluate` takes and ignores one), so a fifth below is scored with the two keys exchanged.

Letters: U scored units, K keys.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

FIFTH = 0.5


def key_weighted(truth_U: np.ndarray, prediction_U: np.ndarray, keys: tuple[str, ...]) -> float:
    """Return the mean weighted score of indices into `keys`, which are mir_eval's names."""
    return float(np.mean(_score_table(keys)[np.asarray(truth_U), np.asarray(prediction_U)]))


def key_weighted_2017(truth_U: np.ndarray, prediction_U: np.ndarray, keys: tuple[str, ...]) -> float:
    """Return the mean weighted score in which a fifth below counts as a fifth above."""
    above_KK = _score_table(keys)
    either_KK = np.where(above_KK.T == FIFTH, FIFTH, above_KK)
    return float(np.mean(either_KK[np.asarray(truth_U), np.asarray(prediction_U)]))


@lru_cache
def _score_table(keys: tuple[str, ...]) -> np.ndarray:
    from mir_eval.key import weighted_score

    return np.array([[weighted_score(truth, prediction) for prediction in keys] for truth in keys])
