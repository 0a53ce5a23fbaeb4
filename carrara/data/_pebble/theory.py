"""Scales, chords and functional harmony: progressions are written in Roman numerals and read against a tonic.

Numerals count from the major scale in both modes (so VI of a minor key is `bVI`); capitals are major, small letters
minor; suffixes: 7 maj7 9 6 sus4 o (diminished) m7b5. Pitches are MIDI numbers, pitch classes 0 to 11 from C.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

_DEGREES = {"i": 0, "ii": 2, "iii": 4, "iv": 5, "v": 7, "vi": 9, "vii": 11}
_SHAPES = {
    "": (0, 4, 7), "7": (0, 4, 7, 10), "maj7": (0, 4, 7, 11), "9": (0, 4, 7, 10, 14), "6": (0, 4, 7, 9),
    "sus4": (0, 5, 7), "o": (0, 3, 6), "m7b5": (0, 3, 6, 10), "5": (0, 7),
}  # fmt: skip
SCALES = {
    "major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10), "pentatonic major": (0, 2, 4, 7, 9),
    "pentatonic minor": (0, 3, 5, 7, 10), "blues major": (0, 2, 3, 4, 7, 9), "blues minor": (0, 3, 5, 6, 7, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
}  # fmt: skip
_NUMERAL = re.compile(r"^([b#]?)([ivIV]+)(.*)$")


@dataclass(frozen=True)
class Chord:
    """A chord: pitch class of its root and the semitones above it."""

    root: int
    shape: tuple[int, ...]

    @property
    def classes(self) -> tuple[int, ...]:
        """Return the pitch classes, root first."""
        return tuple((self.root + step) % 12 for step in self.shape)

    def voiced(self, centre: float, voices: int = 4) -> list[int]:
        """Return up to `voices` pitches, one a pitch class, each in the octave that brings it nearest to `centre`."""
        classes = self.classes[:voices]
        return sorted(round((centre - c) / 12) * 12 + c for c in classes)


def chord(numeral: str, tonic: int) -> Chord:
    """Return the chord that a numeral such as `V7` or `bVI` names above the tonic's pitch class.

    Raises:
        ValueError: it is no numeral of this file's kind.
    """
    found = _NUMERAL.match(numeral)
    if not found or found[2].lower() not in _DEGREES or found[3] not in _SHAPES:
        raise ValueError(f"not a Roman numeral: {numeral!r}")
    accidental, degree, suffix = found.groups()
    root = tonic + _DEGREES[degree.lower()] + {"b": -1, "#": 1, "": 0}[accidental]
    shape = _SHAPES[suffix]
    if degree.islower() and suffix != "o":
        shape = tuple(3 if step == 4 else step for step in shape)
    return Chord(root % 12, shape)


def progression(numerals: str, tonic: int) -> list[tuple[Chord, float]]:
    """Return `(chord, bars)` for a text such as `I vi IV,V`: blanks part bars, commas part a bar evenly."""
    return [(chord(numeral, tonic), 1 / len(bar.split(","))) for bar in numerals.split() for numeral in bar.split(",")]


def ladder(scale: str, tonic: int, low: int, high: int) -> np.ndarray:
    """Return the pitches of a scale between two pitches, ascending."""
    pitches = np.arange(low, high + 1)
    return pitches[np.isin((pitches - tonic) % 12, SCALES[scale])]
