"""From notes to sound: each part through the sampler, levelled by role, a room around it, a master; mono at 24 kHz.

Rooms are decaying noise (highs die first) drawn from fixed seeds; a master tilt and a soft limit stand for the many
ways of recording. Everything is a function of the song and the generator given.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.signal import butter, fftconvolve, lfilter, sosfilt

from carrara.data._pebble import soundfont
from carrara.data._pebble.compose import Part, Song
from carrara.data._pebble.soundfont import DRUM_BANK, RATE

ROOMS = 8
_LEVELS_DB = {"melody": -4.0, "chords": -7.5, "bass": -5.0, "drums": -4.0, "pad": -13.0}


@lru_cache(maxsize=768)
def _note(bank: int, program: int, key: int, velocity: int, ticks: int) -> np.ndarray:
    return soundfont.note(bank, program, key, velocity, ticks * 0.04)


def play(part: Part, duration: float) -> np.ndarray:
    """Return one part as float32 of `duration` seconds; what begins before 0 has its tail, not its onset."""
    out = np.zeros(round(duration * RATE), np.float32)
    bank = DRUM_BANK if part.role == "drums" else 0
    for note in part.notes:
        start = round(note.start * RATE)
        if start >= len(out) or start < -3 * RATE:
            continue
        # Coarse steps of force and length let a loop's notes be computed once; finer force is a plain gain.
        velocity = min(8 * max(round(note.force * 127 / 8), 1), 127)
        fine = np.float32((note.force * 127 / velocity) ** 2)
        wave = _note(bank, part.program, note.pitch, velocity, max(round(note.length / 0.04), 1))
        wave = wave[max(-start, 0) : len(out) - start]
        begin = max(start, 0)
        out[begin : begin + len(wave)] += wave * fine
    return without_offset(out)


def without_offset(wave: np.ndarray) -> np.ndarray:
    """Return the wave without what lies below 19 Hz; some samples of the soundfont are not centred on zero."""
    return lfilter([1, -1], [1, -0.995], wave).astype(np.float32)


def level(wave: np.ndarray, decibels: float) -> np.ndarray:
    """Return the wave at a level in dB below full scale, measured where it sounds; silence stays silence."""
    blocks = wave[: len(wave) // 1200 * 1200].reshape(-1, 1200)
    powers = np.mean(blocks.astype(np.float64) ** 2, axis=1)
    loud = powers[powers > 0.01 * powers.max()] if len(powers) else powers
    if not len(loud) or loud.max() <= 1e-14:
        return wave
    return wave * np.float32(10 ** (decibels / 20) / np.sqrt(loud.mean()))


@lru_cache(maxsize=ROOMS)
def room(number: int) -> np.ndarray:
    """Return an impulse response: `number` runs from a small booth to a hall of about two seconds."""
    rng = np.random.default_rng([41, number])
    seconds = 0.25 * 1.35**number
    time = np.arange(round(1.1 * seconds * RATE)) / RATE
    noise = rng.standard_normal(len(time))
    dull = sosfilt(butter(1, 2500, fs=RATE, output="sos"), noise)
    tail = 0.6 * noise * np.exp(-13.8 * time / seconds) + dull * np.exp(-6.9 * time / seconds)
    tail *= np.clip(time / 0.012, 0, 1)
    return (tail / np.sqrt(np.sum(tail**2))).astype(np.float32)


def render(song: Song, rng: np.random.Generator) -> np.ndarray:
    """Return the whole song, mastered to its loudness, as float32 within ±0.98; the bass stays out of the room."""
    parts = [level(play(part, song.duration), _LEVELS_DB[part.role] + rng.normal(0, 1.5)) for part in song.parts]
    amount = {"bass": 0.0, "drums": 0.5}
    send = np.sum([wave * np.float32(amount.get(part.role, 1.0)) for part, wave in zip(song.parts, parts)], axis=0)
    return _mastered(np.sum(parts, axis=0), send, song, rng)


def _mastered(dry: np.ndarray, send: np.ndarray, song: Song, rng: np.random.Generator) -> np.ndarray:
    """Return dry and room together, tilted in tone, at the song's loudness, softly limited."""
    hall = room(int(np.clip(round(song.reverb * 9 + rng.normal(0, 0.8)), 0, ROOMS - 1)))
    wet = fftconvolve(send, hall)[: len(dry)].astype(np.float32)
    mixed = dry + np.float32(song.reverb) * wet
    low = sosfilt(butter(1, 900, fs=RATE, output="sos"), mixed)
    mixed = low * 10 ** (-song.tilt / 20) + (mixed - low) * 10 ** (song.tilt / 20)
    return limited(level(mixed.astype(np.float32), song.loudness))


def limited(wave: np.ndarray) -> np.ndarray:
    """Return the wave with what passes ±0.6 bent towards ±0.98."""
    size = np.abs(wave)
    bent = 0.6 + 0.38 * np.tanh((size - 0.6) / 0.38)
    return np.where(size > 0.6, np.sign(wave) * bent, wave).astype(np.float32)
