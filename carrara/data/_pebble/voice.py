"""A small singing voice: glottal pulses and breath through a singer's formants, in VocalSet's ten techniques.

Source and filter [fant1960]: the source is a band-limited pulse read from a table along a phase, so any pitch contour
costs one look-up per sample; the vocal tract is five resonators, and vowels are cross-faded between filtered copies. A
singer has their own tract length, formant shifts, range, spectral tilt, breath and vibrato. Formant centres are the
averages for men of [peterson1952], scaled. Arrays are float64 `[samples]` at 24 kHz.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from scipy.signal import butter, lfilter, sosfilt

from carrara.data._pebble.labels import SINGERS
from carrara.data._pebble.players import Note
from carrara.data._pebble.soundfont import RATE

VOWELS = {
    "a": (730, 1090, 2440), "e": (530, 1840, 2480), "i": (280, 2290, 3010), "o": (570, 840, 2410),
    "u": (310, 870, 2240),
}  # fmt: skip
_UPPER_FORMANTS = (3350, 4100)
_BANDWIDTHS = (75, 95, 130, 190, 280)
_TABLE_SIZE = 2048


@dataclass(frozen=True)
class SingerVoice:
    """One singer.

    Attributes:
        tract: Formant frequencies relative to an average man's.
        shifts: Factor of each formant.
        low: Lowest pitch in MIDI.
        high: Highest pitch in MIDI.
        tilt: Spectral tilt in dB per octave.
        breath: Level of the breath noise.
        vibrato_rate: In Hz.
        vibrato_depth: In semitones.
        jitter: Std of fast pitch changes in octaves.
        open_quotient: Fraction of a period in which the glottis is open.
    """

    tract: float
    shifts: tuple[float, ...]
    low: float
    high: float
    tilt: float
    breath: float
    vibrato_rate: float
    vibrato_depth: float
    jitter: float
    open_quotient: float


@dataclass(frozen=True)
class Technique:
    """How a technique changes a voice.

    Attributes:
        tilt: Spectral tilt added in dB per octave.
        breath: Factor of the breath noise.
        jitter: Factor of the jitter.
        vibrato: Factor of the vibrato's depth.
        low_pass: Cut-off frequency in Hz; 0 for none.
        voiced: Factor of the pulses.
        register: The part of the singer's range that is used, 0 the lowest pitch and 1 the highest.
    """

    tilt: float = 0.0
    breath: float = 1.0
    jitter: float = 1.0
    vibrato: float = 0.0
    low_pass: float = 0.0
    voiced: float = 1.0
    register: tuple[float, float] = (0.2, 0.7)


_TECHNIQUES = {
    "belt": Technique(tilt=4.5, breath=0.3, vibrato=0.45, register=(0.65, 1.0)),
    "breathy": Technique(tilt=-3.5, breath=45.0, vibrato=0.2, voiced=0.6),
    "inhaled": Technique(tilt=-2.0, breath=60.0, jitter=7.0, voiced=0.3, register=(0.35, 0.9)),
    "lip_trill": Technique(tilt=-3.0, breath=1.5, low_pass=520.0, register=(0.1, 0.7)),
    "spoken": Technique(tilt=-1.0, breath=1.8, jitter=2.5, register=(-0.25, 0.05)),
    "straight": Technique(),
    "trill": Technique(vibrato=0.0),
    "trillo": Technique(breath=1.6),
    "vibrato": Technique(vibrato=1.5),
    "vocal_fry": Technique(tilt=1.5, breath=1.2, jitter=14.0, register=(0.0, 0.1)),
}


@lru_cache(maxsize=len(SINGERS))
def singer_voice(singer: str) -> SingerVoice:
    """Return the voice of a singer, always the same."""
    index = SINGERS.index(singer)
    rng = np.random.default_rng([51, index])
    is_woman = singer.startswith("f")
    rank = index % 6
    tract = (1.10 + 0.022 * rank if is_woman else 0.90 + 0.024 * rank) + rng.uniform(-0.008, 0.008)
    low = (55 if is_woman else 43) + (rank * 5) % 6 * 0.9 + rng.uniform(-1, 1)
    return SingerVoice(
        tract=float(tract),
        shifts=tuple(float(x) for x in rng.uniform(0.94, 1.06, 5)),
        low=float(low),
        high=float(low + rng.uniform(17, 22)),
        tilt=float(rng.uniform(-1.5, 1.5)),
        breath=float(rng.uniform(0.006, 0.024)),
        vibrato_rate=float(rng.uniform(4.8, 6.4)),
        vibrato_depth=float(rng.uniform(0.35, 0.65)),
        jitter=float(rng.uniform(0.002, 0.006)),
        open_quotient=float(rng.uniform(0.5, 0.72)),
    )


@lru_cache(maxsize=64)
def _glottal_pulse(open_quotient: float, tilt: float, harmonics: int) -> np.ndarray:
    """Return one period of the derivative of Rosenberg's glottal flow, tilted (dB per octave) and band-limited."""
    phase = np.arange(_TABLE_SIZE) / _TABLE_SIZE
    rise, fall = 0.66 * open_quotient, 0.34 * open_quotient
    flow = np.where(
        phase < rise,
        0.5 * (1 - np.cos(np.pi * phase / rise)),
        np.where(phase < rise + fall, np.cos(0.5 * np.pi * (phase - rise) / fall), 0.0),
    )
    spectrum = np.fft.rfft(np.diff(flow, append=flow[0]))
    number = np.maximum(np.arange(len(spectrum)), 1)
    spectrum *= number ** (tilt / 6.02) * (np.arange(len(spectrum)) <= harmonics)
    spectrum[0] = 0
    wave = np.fft.irfft(spectrum, _TABLE_SIZE)
    return np.append(wave, wave[0]) / np.sqrt(np.mean(wave**2))


def _slow_noise(rng: np.random.Generator, size: int, rate: float) -> np.ndarray:
    """Return noise with a std of 1 that changes about `rate` times a second."""
    knots = rng.standard_normal(int(size / RATE * rate) + 3)
    return np.interp(np.arange(size) * rate / RATE, np.arange(len(knots)), knots)


def _draw_pitch(singer: str, technique: str, notes: list[Note], rng: np.random.Generator) -> np.ndarray:
    """Return the pitch in MIDI at each sample to the end of the last note: glides, drift, vibrato or trill, jitter."""
    timbre, style = singer_voice(singer), _TECHNIQUES[technique]
    size = round((notes[-1].start + notes[-1].length) * RATE)
    time = np.arange(size) / RATE
    pitch = np.full(size, float(notes[0].pitch))
    for before, after in pairwise(notes):
        glide = 0.5 + 0.5 * np.tanh((time - after.start) / 0.022)
        pitch += (after.pitch - before.pitch) * glide
    pitch += 0.08 * _slow_noise(rng, size, 3)
    age = np.zeros(size)
    for note in notes:
        begin = round(note.start * RATE)
        age[begin:] = time[: size - begin]
    if style.vibrato:
        cycles = np.cumsum(timbre.vibrato_rate * (1 + 0.05 * _slow_noise(rng, size, 4))) / RATE
        onset = np.clip((age - 0.12) / 0.25, 0, 1) if technique != "vibrato" else 1.0
        pitch += timbre.vibrato_depth * style.vibrato * onset * np.sin(2 * np.pi * cycles)
    if technique == "trill":
        speed = rng.uniform(5.0, 7.5)
        wide = float(rng.choice((1.0, 2.0)))
        pitch += wide * (0.5 + 0.5 * np.tanh(4 * np.sin(2 * np.pi * speed * time)))
    if technique == "spoken":
        pitch += 2.2 * _slow_noise(rng, size, 4) - 3.0 * time / time[-1]
    return pitch + 12 * timbre.jitter * style.jitter * _slow_noise(rng, size, 70)


def _draw_gain(technique: str, notes: list[Note], size: int, rng: np.random.Generator) -> np.ndarray:
    """Return the gain at each sample: attacks and releases, and the pulsation of some techniques."""
    time = np.arange(size) / RATE
    gain = np.zeros(size)
    for note in notes:
        attack, release = rng.uniform(0.03, 0.08), rng.uniform(0.05, 0.1)
        shape = np.clip((time - note.start) / attack, 0, 1)
        shape *= np.clip((note.start + note.length - time) / release, 0, 1)
        gain = np.maximum(gain, shape * note.force)
    gain *= 1 + 0.06 * _slow_noise(rng, size, 5)
    if technique == "lip_trill":
        cycles = np.cumsum(rng.uniform(19, 28) * (1 + 0.08 * _slow_noise(rng, size, 8))) / RATE
        gain *= 0.15 + 0.85 * np.clip(0.5 + 0.9 * np.sin(2 * np.pi * cycles), 0, 1)
    elif technique == "trillo":
        speed = rng.uniform(4.5, 6) + rng.uniform(0.5, 3) * time / time[-1]
        gain *= 0.05 + 0.95 * np.clip(0.6 + np.sin(2 * np.pi * np.cumsum(speed) / RATE), 0, 1)
    elif technique == "spoken":
        cycles = np.cumsum(rng.uniform(3.2, 4.6) * (1 + 0.3 * _slow_noise(rng, size, 3))) / RATE
        gain *= np.clip(0.45 + 0.9 * np.sin(2 * np.pi * cycles), 0.02, 1)
    elif technique == "inhaled":
        gain *= np.linspace(0.5, 1.0, size)
    return gain


def _filter_vowel(singer: str, technique: str, vowel: str, wave: np.ndarray) -> np.ndarray:
    """Return the wave through five resonators in series, each with a gain of 1 at 0 Hz."""
    timbre, style = singer_voice(singer), _TECHNIQUES[technique]
    out = wave
    for centre, shift, bandwidth in zip((*VOWELS[vowel], *_UPPER_FORMANTS), timbre.shifts, _BANDWIDTHS):
        raised = 1.08 if style.tilt > 3 and centre < 800 else 1
        frequency = min(centre * timbre.tract * shift * raised, 0.46 * RATE)
        radius = np.exp(-np.pi * bandwidth * (1.6 if style.breath > 5 else 1) / RATE)
        feedback = [1, -2 * radius * np.cos(2 * np.pi * frequency / RATE), radius**2]
        out = lfilter([sum(feedback)], feedback, out)
    return sosfilt(butter(2, style.low_pass, fs=RATE, output="sos"), out) if style.low_pass else out


def sing(singer: str, technique: str, notes: list[Note], duration: float, rng: np.random.Generator) -> np.ndarray:
    """Return `duration` seconds of a singer singing notes (seconds, MIDI) in a technique, float32, level not set.

    Each note has its vowel; notes beyond the duration are cut.
    """
    timbre, style = singer_voice(singer), _TECHNIQUES[technique]
    notes = [note for note in notes if note.start < duration - 0.05]
    pitch = _draw_pitch(singer, technique, notes, rng)
    size = min(len(pitch), round(duration * RATE))
    pitch = pitch[:size]
    if technique == "vocal_fry":
        pitch = 33 + 2.5 * rng.uniform(-1, 1) + (pitch - pitch.mean()) * 0.4 + 1.5 * _slow_noise(rng, size, 45)
    hertz = 440 * 2 ** ((pitch - 69) / 12)
    # Coarse steps of tilt and harmonics let pulses be cached.
    harmonics = int(0.46 * RATE / hertz.max()) // 4 * 4 + 1
    table = _glottal_pulse(round(timbre.open_quotient, 2), round(style.tilt + timbre.tilt - 3.0), harmonics)
    phase = (np.cumsum(hertz) / RATE % 1) * _TABLE_SIZE
    source = np.interp(phase, np.arange(_TABLE_SIZE + 1), table) * style.voiced
    breath = lfilter([1, -0.95], [1], rng.standard_normal(size))
    breath *= 0.6 + 0.4 * np.cos(2 * np.pi * phase / _TABLE_SIZE)
    source = source + timbre.breath * style.breath * breath
    source *= _draw_gain(technique, notes, size, rng)

    # Vowels change with each note, or with each syllable where the technique is spoken.
    time = np.arange(size) / RATE
    edges = [note.start for note in notes]
    if technique == "spoken":
        edges = list(np.arange(0, time[-1], 0.24))
    vowels = [str(vowel) for vowel in rng.choice(list(VOWELS), max(len(edges), 1))]
    if technique != "spoken" and len(edges) < 8:
        vowels = [vowels[0]] * len(edges)
    mixed = np.zeros(size)
    for vowel in sorted(set(vowels)):
        # 1 while the vowel lasts and 0 elsewhere, changing within 40 ms.
        weights = [float(v == vowel) for v in vowels]
        corner_times, corner_weights = [0.0], [weights[0]]
        for edge, before, after in zip(edges[1:], weights[:-1], weights[1:]):
            corner_times += [edge, edge + 0.04]
            corner_weights += [before, after]
        mixed += _filter_vowel(singer, technique, vowel, source) * np.interp(time, corner_times, corner_weights)
    out = np.zeros(round(duration * RATE), np.float32)
    out[:size] = mixed
    return out


def write_exercise(singer: str, technique: str, duration: float, rng: np.random.Generator) -> list[Note]:
    """Return the notes of an exercise in the singer's range: a long tone, a scale or an arpeggio."""
    timbre, style = singer_voice(singer), _TECHNIQUES[technique]
    fraction = rng.uniform(*style.register)
    base = round(timbre.low + fraction * (timbre.high - timbre.low) - (3 if fraction > 0.6 else 0))
    steps = ((0,), (0, 2, 4, 5, 7), (0, 4, 7, 4, 0), (0, 2, 4, 2, 0), (0, 0))[int(rng.integers(5))]
    if technique in ("spoken", "vocal_fry", "inhaled"):
        steps = (0,)
    start = float(rng.uniform(0.02, 0.12))
    length = (duration - start - rng.uniform(0.05, 0.25)) / len(steps)
    return [
        Note(start + i * length, length * (1.0 if i == len(steps) - 1 else 0.99), base + step, 1.0)
        for i, step in enumerate(steps)
    ]
