"""MIREX's weighted key score: 1 for the right key, part of a point for a related one (`mir_eval.key.weighted_score`).

`key_weighted`, which MARBLE reports: 0.5 for a fifth above in the same mode, 0.3 for the relative key, 0.2 for the
parallel key, else 0. `key_weighted_2017`: 0.5 for a fifth below too, as MIREX has scored since 2017. mir_eval 0.8.2
knows the first only (its `evaluate` takes an option for the second and ignores it); later versions have the option
`allow_descending_fifths` and announce another default, so it is always given, and a fifth below is scored with the two
keys exchanged, which is the same in all versions.

Letters: U scored units, K keys.
"""

from __future__ import annotations

import inspect
import re
from functools import lru_cache

import numpy as np

# Pitch classes from C on, in names that mir_eval takes.
TONICS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
NATURAL = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
ACCIDENTAL = {"": 0, "#": 1, "♯": 1, "b": -1, "♭": -1}
MODES = {"": "major", "M": "major", "maj": "major", "major": "major"}
MODES |= {"m": "minor", "min": "minor", "minor": "minor", "other": "other"}
NO_KEY = ("X", "x", "N")
KEY = re.compile(r"([A-Ga-g])([#♯b♭]?)(?:\s*:\s*|\s+|)([A-Za-z]*)")

FIFTH = 0.5
ONLY_ABOVE = "allow_descending_fifths"


def parse_key(name: str) -> str:
    """Return mir_eval's name of a key: `Cb:maj`, `Cb major` and `B` are `B major`, `Am` is `A minor`, `N` is `X`.

    Raises:
        ValueError: It is none, or a small letter alone, which some write for minor.
    """
    if name.strip() in NO_KEY:
        return "X"
    match = KEY.fullmatch(name.strip())
    written = match[3] if match and len(match[3]) == 1 else match[3].lower() if match else ""
    if match is None or written not in MODES or (match[1].islower() and not written):
        raise ValueError(f"{name!r} is no key; write a tonic and its mode, such as C major, F# minor, Bb:min or Am")
    pitch_class = NATURAL[match[1].upper()] + ACCIDENTAL[match[2]]
    return f"{TONICS[pitch_class % 12]} {MODES[written]}"


def key_weighted(truth_U: np.ndarray, prediction_U: np.ndarray, keys: tuple[str, ...]) -> float:
    """Return the mean weighted score of indices into `keys`, names that `parse_key` takes."""
    return float(np.mean(_score_table(keys)[np.asarray(truth_U), np.asarray(prediction_U)]))


def key_weighted_2017(truth_U: np.ndarray, prediction_U: np.ndarray, keys: tuple[str, ...]) -> float:
    """Return the mean weighted score in which a fifth below counts as a fifth above."""
    above_KK = _score_table(keys)
    either_KK = np.where(above_KK.T == FIFTH, FIFTH, above_KK)
    return float(np.mean(either_KK[np.asarray(truth_U), np.asarray(prediction_U)]))


@lru_cache
def _score_table(keys: tuple[str, ...]) -> np.ndarray:
    from mir_eval.key import weighted_score

    options = {ONLY_ABOVE: False} if ONLY_ABOVE in inspect.signature(weighted_score).parameters else {}
    names = [parse_key(key) for key in keys]
    return np.array([[weighted_score(truth, prediction, **options) for prediction in names] for truth in names])
