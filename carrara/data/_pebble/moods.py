"""What a song feels like, told from what was written: valence and arousal on EmoMusic's scale of 1 to 9, mood words.

The signs are those the psychology of music agrees on: mode, register and bright sound for valence; tempo, density and
loudness for arousal (Gabrielsson & Lindström 2010's review); a little disagreement is added, as raters would.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from carrara.data._pebble.compose import Feel


@dataclass(frozen=True)
class Heard:
    """What can be heard of a song: mode, mean pitch (MIDI), beats a minute, onsets a second, level and tone tilt in dB,
    and the energy of its genre's playing (-1 to 1).
    """

    minor: bool
    register: float
    tempo: float
    onsets: float
    loudness: float
    tilt: float
    energy: float


def feelings(heard: Heard, rng: np.random.Generator) -> tuple[float, float]:
    """Return valence and arousal, each from 1 to 9."""
    pace = np.log2(heard.tempo / 105)
    density = np.log2(max(heard.onsets, 1.0) / 14)
    arousal = 0.5 * pace + 0.16 * density + 0.14 * (heard.loudness + 21) / 3 + 0.3 * heard.energy
    mode = -0.2 if heard.minor else 0.2
    valence = mode + 0.05 * (heard.register - 65) + 0.4 * pace + 0.11 * heard.tilt - 0.1 * max(heard.energy, 0)
    scaled = [5 + 3.0 * value + rng.normal(0, 0.35) for value in (valence, arousal)]
    first, second = (round(float(np.clip(value, 1, 9)), 3) for value in scaled)
    return first, second


def moods(valence: float, arousal: float, feel: Feel, rng: np.random.Generator) -> list[str]:
    """Return one to three mood words, in alphabetical order, most of them where the feelings are strong."""
    v, a = (valence - 5) / 4, (arousal - 5) / 4
    dance = feel.genre in ("funk", "latin", "reggae", "electronic", "hip hop")
    soft = feel.genre in ("ambient", "classical", "folk", "jazz")
    score = {
        "aggressive": a - 0.6 * v - 0.45 + 0.3 * (feel.genre == "metal"),
        "calm": -a + 0.1 * soft - 0.15,
        "dark": -v - 0.2 + 0.15 * feel.minor,
        "dreamy": -a + 0.3 * (feel.template.reverb > 0.4) - 0.35,
        "energetic": a - 0.15,
        "epic": 0.3 * a + 0.35 * (feel.genre in ("classical", "metal", "ambient")) + 0.15 * feel.minor - 0.1,
        "groovy": 0.35 * dance + 0.3 * (feel.swing > 0.55) - 0.25 + 0.1 * a,
        "happy": v + 0.2 * a - 0.2,
        "romantic": 0.4 * v - 0.6 * a + 0.25 * soft - 0.15,
        "sad": -v - 0.6 * a - 0.2,
        "tense": -0.6 * v + 0.6 * a - 0.25,
    }
    ranked = sorted(score, key=lambda word: -(score[word] + rng.normal(0, 0.07)))
    return sorted([ranked[0], *(word for word in ranked[1:3] if score[word] > 0.05)])
