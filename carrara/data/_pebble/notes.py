"""Single notes of eleven instrument families: which presets a family has, and who plays on which side of the split.

Families are NSynth's. As there, an instrument (here a preset) stands on one side only, so a probe must know the
family, not the preset. Presets whose sound has no clear pitch, or that the soundfont tunes away, are left out.
"""

from __future__ import annotations

import numpy as np
from scipy.signal import fftconvolve

from carrara.core.clip import Split
from carrara.data._pebble import soundfont
from carrara.data._pebble.labels import FAMILIES, PITCHES
from carrara.data._pebble.render import level, limited, room, without_offset
from carrara.data._pebble.soundfont import RATE

SECONDS = 1.75
# The last two presets of each family are the test side's, the one before them the validation side's.
PRESETS: dict[str, tuple[int, ...]] = {
    "bass": (33, 32, 38, 36, 37, 34, 35, 39),
    "brass": (56, 58, 61, 60, 62, 59, 57, 63),
    "flute": (73, 76, 74, 72, 79, 75),
    "guitar": (24, 26, 30, 28, 27, 25, 29),
    "keyboard": (0, 4, 6, 2, 7, 3, 1, 5),
    "mallet": (11, 13, 10, 108, 15, 12, 114),
    "organ": (16, 18, 19, 21, 20, 17, 23),
    "reed": (65, 71, 68, 70, 67, 22, 64, 66, 69),
    "string": (40, 48, 42, 50, 44, 43, 41, 49),
    "synth_lead": (80, 82, 83, 84, 90, 81, 87),
    "vocal": (52, 54, 53, 91, 85),
}


def presets(family: str, side: Split) -> tuple[int, ...]:
    """Return the presets that play a family on a side."""
    known = PRESETS[family]
    return {"train": known[:-3], "valid": known[-3:-2], "test": known[-2:]}[side]


def draw(number: int, side: Split, rng: np.random.Generator) -> tuple[str, int, int]:
    """Return family, preset and pitch of note `number`; families take turns."""
    family = FAMILIES[number % len(FAMILIES)]
    known = presets(family, side)
    return family, known[int(rng.integers(len(known)))], int(rng.choice(PITCHES))


def play(preset: int, pitch: int, rng: np.random.Generator) -> np.ndarray:
    """Return the note, float32 mono, after a little silence and in a small room."""
    out = np.zeros(round(SECONDS * RATE), np.float32)
    velocity, held = int(rng.integers(55, 125)), float(rng.uniform(0.7, 1.3))
    wave = soundfont.note(0, preset, pitch, velocity, held)
    start = round(float(rng.uniform(0.0, 0.15)) * RATE)
    wave = wave[: len(out) - start]
    out[start : start + len(wave)] = wave
    out = without_offset(out)
    wet = fftconvolve(out, room(int(rng.integers(0, 4))))[: len(out)].astype(np.float32)
    mixed = out + np.float32(rng.uniform(0.0, 0.25)) * wet
    return limited(level(mixed, -20 + 6 * float(np.log2(velocity / 90)) + float(rng.normal(0, 1.5))))
