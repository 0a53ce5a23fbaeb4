"""A small singing voice: glottal pulses and breath through a singer's formants, in VocalSet's ten techniques.

Source and filter after Fant (1960): the source is a band-limited pulse read from a table along a phase, so any pitch
contour costs one look-up a sample; the tract is five resonators, vowels cross-faded between filtered copies. A singer
is a tract length, small shifts of each formant, a range, a tilt, a breath and a vibrato of their own. Formant centres
are Peterson and Barney's (1952) averages for men, scaled. Arrays are float64 `[samples]` at 24 kHz.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from scipy.signal import butter, lfilter, sosfilt

from carrara.data._pebble.labels import SINGERS
from carrara.data._pebble.parts import Note
from carrara.data._pebble.soundfont import RATE

VOWELS = {
    "a": (730, 1090, 2440), "e": (530, 1840, 2480), "i": (280, 2290, 3010), "o": (570, 840, 2410),
    "u": (310, 870, 2240),
}  # fmt: skip
_UPPER = (3350, 4100)
_WIDTHS = (75, 95, 130, 190, 280)
_TABLE = 2048


@dataclass(frozen=True)
class Singer:
    """One singer: lengths relative to an average man's tract, pitches in MIDI, rates in Hz, depths in semitones."""

    name: str
    tract: float
    shifts: tuple[float, ...]
    low: float
    high: float
    tilt: float
    breath: float
    vibrato_rate: float
    vibrato_depth: float
    jitter: float
    open_share: float


@dataclass(frozen=True)
class Manner:
    """How a technique uses the voice: tilt added (dB an octave), `dull` a low-pass in Hz (0: none), `register` the
    share of the range it lies in; breath, jitter, vibrato and voiced are factors.
    """

    tilt: float = 0.0
    breath: float = 1.0
    jitter: float = 1.0
    vibrato: float = 0.0
    dull: float = 0.0
    voiced: float = 1.0
    register: tuple[float, float] = (0.2, 0.7)


MANNERS = {
    "belt": Manner(tilt=4.5, breath=0.3, vibrato=0.45, register=(0.65, 1.0)),
    "breathy": Manner(tilt=-3.5, breath=45.0, vibrato=0.2, voiced=0.6),
    "inhaled": Manner(tilt=-2.0, breath=60.0, jitter=7.0, voiced=0.3, register=(0.35, 0.9)),
    "lip_trill": Manner(tilt=-3.0, breath=1.5, dull=520.0, register=(0.1, 0.7)),
    "spoken": Manner(tilt=-1.0, breath=1.8, jitter=2.5, register=(-0.25, 0.05)),
    "straight": Manner(),
    "trill": Manner(vibrato=0.0),
    "trillo": Manner(breath=1.6),
    "vibrato": Manner(vibrato=1.5),
    "vocal_fry": Manner(tilt=1.5, breath=1.2, jitter=14.0, register=(0.0, 0.1)),
}


@lru_cache(maxsize=len(SINGERS))
def singer(name: str) -> Singer:
    """Return the singer of that name; the same person for ever."""
    place = SINGERS.index(name)
    rng = np.random.default_rng([51, place])
    woman = name.startswith("f")
    rank = place % 6
    tract = (1.10 + 0.022 * rank if woman else 0.90 + 0.024 * rank) + rng.uniform(-0.008, 0.008)
    low = (55 if woman else 43) + (rank * 5) % 6 * 0.9 + rng.uniform(-1, 1)
    return Singer(
        name=name,
        tract=float(tract),
        shifts=tuple(float(x) for x in rng.uniform(0.94, 1.06, 5)),
        low=float(low),
        high=float(low + rng.uniform(17, 22)),
        tilt=float(rng.uniform(-1.5, 1.5)),
        breath=float(rng.uniform(0.006, 0.024)),
        vibrato_rate=float(rng.uniform(4.8, 6.4)),
        vibrato_depth=float(rng.uniform(0.35, 0.65)),
        jitter=float(rng.uniform(0.002, 0.006)),
        open_share=float(rng.uniform(0.5, 0.72)),
    )


@lru_cache(maxsize=64)
def _pulse(open_share: float, tilt: float, harmonics: int) -> np.ndarray:
    """Return one period of the flow's derivative (Rosenberg's shape), tilted by dB an octave, band-limited."""
    phase = np.arange(_TABLE) / _TABLE
    rise, fall = 0.66 * open_share, 0.34 * open_share
    flow = np.where(
        phase < rise,
        0.5 * (1 - np.cos(np.pi * phase / rise)),
        np.where(phase < rise + fall, np.cos(0.5 * np.pi * (phase - rise) / fall), 0.0),
    )
    spectrum = np.fft.rfft(np.diff(flow, append=flow[0]))
    number = np.maximum(np.arange(len(spectrum)), 1)
    spectrum *= number ** (tilt / 6.02) * (np.arange(len(spectrum)) <= harmonics)
    spectrum[0] = 0
    wave = np.fft.irfft(spectrum, _TABLE)
    return np.append(wave, wave[0]) / np.sqrt(np.mean(wave**2))


def _smooth(rng: np.random.Generator, size: int, rate: float) -> np.ndarray:
    """Return noise of unit deviation that changes about `rate` times a second."""
    knots = rng.standard_normal(int(size / RATE * rate) + 3)
    return np.interp(np.arange(size) * rate / RATE, np.arange(len(knots)), knots)


def _contour(who: Singer, manner: Manner, technique: str, notes: list[Note], rng: np.random.Generator) -> np.ndarray:
    """Return the pitch in MIDI at each sample to the end of the last note: glides, drift, vibrato or trill, jitter."""
    size = round((notes[-1].start + notes[-1].length) * RATE)
    time = np.arange(size) / RATE
    pitch = np.full(size, float(notes[0].pitch))
    for before, after in pairwise(notes):
        glide = 0.5 + 0.5 * np.tanh((time - after.start) / 0.022)
        pitch += (after.pitch - before.pitch) * glide
    pitch += 0.08 * _smooth(rng, size, 3)
    age = np.zeros(size)
    for note in notes:
        begin = round(note.start * RATE)
        age[begin:] = time[: size - begin]
    if manner.vibrato:
        turns = np.cumsum(who.vibrato_rate * (1 + 0.05 * _smooth(rng, size, 4))) / RATE
        onset = np.clip((age - 0.12) / 0.25, 0, 1) if technique != "vibrato" else 1.0
        pitch += who.vibrato_depth * manner.vibrato * onset * np.sin(2 * np.pi * turns)
    if technique == "trill":
        speed = rng.uniform(5.0, 7.5)
        wide = float(rng.choice((1.0, 2.0)))
        pitch += wide * (0.5 + 0.5 * np.tanh(4 * np.sin(2 * np.pi * speed * time)))
    if technique == "spoken":
        pitch += 2.2 * _smooth(rng, size, 4) - 3.0 * time / time[-1]
    return pitch + 12 * who.jitter * manner.jitter * _smooth(rng, size, 70)


def _loudness(technique: str, notes: list[Note], size: int, rng: np.random.Generator) -> np.ndarray:
    """Return the gain at each sample: attacks and releases, and the pulses that some techniques are made of."""
    time = np.arange(size) / RATE
    gain = np.zeros(size)
    for note in notes:
        attack, release = rng.uniform(0.03, 0.08), rng.uniform(0.05, 0.1)
        shape = np.clip((time - note.start) / attack, 0, 1)
        shape *= np.clip((note.start + note.length - time) / release, 0, 1)
        gain = np.maximum(gain, shape * note.force)
    gain *= 1 + 0.06 * _smooth(rng, size, 5)
    if technique == "lip_trill":
        turns = np.cumsum(rng.uniform(19, 28) * (1 + 0.08 * _smooth(rng, size, 8))) / RATE
        gain *= 0.15 + 0.85 * np.clip(0.5 + 0.9 * np.sin(2 * np.pi * turns), 0, 1)
    elif technique == "trillo":
        speed = rng.uniform(4.5, 6) + rng.uniform(0.5, 3) * time / time[-1]
        gain *= 0.05 + 0.95 * np.clip(0.6 + np.sin(2 * np.pi * np.cumsum(speed) / RATE), 0, 1)
    elif technique == "spoken":
        turns = np.cumsum(rng.uniform(3.2, 4.6) * (1 + 0.3 * _smooth(rng, size, 3))) / RATE
        gain *= np.clip(0.45 + 0.9 * np.sin(2 * np.pi * turns), 0.02, 1)
    elif technique == "inhaled":
        gain *= np.linspace(0.5, 1.0, size)
    return gain


def _tract(who: Singer, manner: Manner, vowel: str, wave: np.ndarray) -> np.ndarray:
    """Return the wave through five resonators in a row, each of unit gain at 0 Hz."""
    out = wave
    for centre, shift, width in zip((*VOWELS[vowel], *_UPPER), who.shifts, _WIDTHS):
        frequency = min(centre * who.tract * shift * (1.08 if manner.tilt > 3 and centre < 800 else 1), 0.46 * RATE)
        radius = np.exp(-np.pi * width * (1.6 if manner.breath > 5 else 1) / RATE)
        feedback = [1, -2 * radius * np.cos(2 * np.pi * frequency / RATE), radius**2]
        out = lfilter([sum(feedback)], feedback, out)
    return sosfilt(butter(2, manner.dull, fs=RATE, output="sos"), out) if manner.dull else out


def sing(name: str, technique: str, notes: list[Note], duration: float, rng: np.random.Generator) -> np.ndarray:
    """Return `duration` seconds of a singer singing the notes (seconds, MIDI) by a technique, float32, not levelled.

    Each note has its vowel; notes out of a clip's bounds are cut.
    """
    who, manner = singer(name), MANNERS[technique]
    notes = [note for note in notes if note.start < duration - 0.05]
    pitch = _contour(who, manner, technique, notes, rng)
    size = min(len(pitch), round(duration * RATE))
    pitch = pitch[:size]
    if technique == "vocal_fry":
        pitch = 33 + 2.5 * rng.uniform(-1, 1) + (pitch - pitch.mean()) * 0.4 + 1.5 * _smooth(rng, size, 45)
    hertz = 440 * 2 ** ((pitch - 69) / 12)
    # Steps of tilt and harmonics so that pulses are shared; the vocal effort's tilt is the singer's and the manner's.
    harmonics = int(0.46 * RATE / hertz.max()) // 4 * 4 + 1
    table = _pulse(round(who.open_share, 2), round(manner.tilt + who.tilt - 3.0), harmonics)
    place = (np.cumsum(hertz) / RATE % 1) * _TABLE
    source = np.interp(place, np.arange(_TABLE + 1), table) * manner.voiced
    breath = lfilter([1, -0.95], [1], rng.standard_normal(size))
    breath *= 0.6 + 0.4 * np.cos(2 * np.pi * place / _TABLE)
    source = source + who.breath * manner.breath * breath
    source *= _loudness(technique, notes, size, rng)
    out = np.zeros(round(duration * RATE), np.float32)
    out[:size] = _mouthed(who, manner, technique, notes, source, rng)
    return out


def _mouthed(
    who: Singer, manner: Manner, technique: str, notes: list[Note], source: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return the source through the vowels, which change with each note (with each syllable where spoken)."""
    time = np.arange(len(source)) / RATE
    edges = [note.start for note in notes]
    if technique == "spoken":
        edges = list(np.arange(0, time[-1], 0.24))
    spoken = [str(v) for v in rng.choice(list(VOWELS), max(len(edges), 1))]
    if technique != "spoken" and len(edges) < 8:
        spoken = [spoken[0]] * len(edges)
    out = np.zeros(len(source))
    for vowel in sorted(set(spoken)):
        weight = np.interp(time, *_steps(edges, [float(v == vowel) for v in spoken]))
        out += _tract(who, manner, vowel, source) * weight
    return out


def _steps(edges: list[float], values: list[float]) -> tuple[list[float], list[float]]:
    """Return the corners of a line that takes each value from its edge on, over 40 ms."""
    times, heights = [0.0], [values[0]]
    for edge, before, after in zip(edges[1:], values[:-1], values[1:]):
        times += [edge, edge + 0.04]
        heights += [before, after]
    return times, heights


def exercise(name: str, technique: str, duration: float, rng: np.random.Generator) -> list[Note]:
    """Return the notes of a vocal exercise in the singer's range: a long tone, a scale or an arpeggio."""
    who, manner = singer(name), MANNERS[technique]
    share = rng.uniform(*manner.register)
    base = round(who.low + share * (who.high - who.low) - (3 if share > 0.6 else 0))
    shape = ((0,), (0, 2, 4, 5, 7), (0, 4, 7, 4, 0), (0, 2, 4, 2, 0), (0, 0))[int(rng.integers(5))]
    if technique in ("spoken", "vocal_fry", "inhaled"):
        shape = (0,)
    start = float(rng.uniform(0.02, 0.12))
    each = (duration - start - rng.uniform(0.05, 0.25)) / len(shape)
    return [
        Note(start + i * each, each * (1.0 if i == len(shape) - 1 else 0.99), base + step, 1.0)
        for i, step in enumerate(shape)
    ]
