"""From notes to audio: tracks through the sampler, balanced by role, in a room, mastered; mono at 24 kHz.

Rooms are decaying noise, whose high frequencies decay first, from fixed seeds; a tone tilt and a soft limiter imitate
different recordings. Everything is a function of the composition and the random generator.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.signal import butter, fftconvolve, lfilter, sosfilt

from carrara.data._pebble import soundfont
from carrara.data._pebble.compose import Composition, Track
from carrara.data._pebble.soundfont import DRUM_BANK, RATE

ROOMS = 8
NOTE_SECONDS = 1.75
_LEVELS_DB = {"melody": -4.0, "chords": -7.5, "bass": -5.0, "drums": -4.0, "pad": -13.0}
_LENGTH_STEP_SECONDS = 0.04


@lru_cache(maxsize=768)
def _sample_note(bank: int, program: int, key: int, velocity: int, steps: int) -> np.ndarray:
    return soundfont.play_note(bank, program, key, velocity, steps * _LENGTH_STEP_SECONDS)


def render_track(track: Track, duration: float) -> np.ndarray:
    """Return a track as float32 of `duration` seconds; notes that start before 0 are cut, not moved."""
    out = np.zeros(round(duration * RATE), np.float32)
    bank = DRUM_BANK if track.role == "drums" else 0
    for note in track.notes:
        start = round(note.start * RATE)
        if start >= len(out) or start < -3 * RATE:
            continue
        # Coarse steps of force and length let repeated notes be cached; the rest of the force is a gain.
        velocity = min(8 * max(round(note.force * 127 / 8), 1), 127)
        gain = np.float32((note.force * 127 / velocity) ** 2)
        steps = max(round(note.length / _LENGTH_STEP_SECONDS), 1)
        wave = _sample_note(bank, track.program, note.pitch, velocity, steps)
        wave = wave[max(-start, 0) : len(out) - start]
        begin = max(start, 0)
        out[begin : begin + len(wave)] += wave * gain
    return _remove_offset(out)


def render_song(song: Composition, rng: np.random.Generator) -> np.ndarray:
    """Return the song, mastered to its loudness, as float32 within ±0.98; the bass gets no reverb."""
    waves = [
        set_level(render_track(track, song.duration), _LEVELS_DB[track.role] + rng.normal(0, 1.5))
        for track in song.tracks
    ]
    sends = {"bass": 0.0, "drums": 0.5}
    send = np.sum([wave * np.float32(sends.get(track.role, 1.0)) for track, wave in zip(song.tracks, waves)], axis=0)
    dry = np.sum(waves, axis=0)
    room = room_response(int(np.clip(round(song.reverb * 9 + rng.normal(0, 0.8)), 0, ROOMS - 1)))
    mixed = dry + np.float32(song.reverb) * convolve_room(send, room)
    low = sosfilt(butter(1, 900, fs=RATE, output="sos"), mixed)
    mixed = low * 10 ** (-song.tilt / 20) + (mixed - low) * 10 ** (song.tilt / 20)
    return soft_limit(set_level(mixed.astype(np.float32), song.loudness))


def render_note(preset: int, pitch: int, rng: np.random.Generator) -> np.ndarray:
    """Return one note of `NOTE_SECONDS` as float32, after a short silence and in a small room."""
    out = np.zeros(round(NOTE_SECONDS * RATE), np.float32)
    velocity, held = int(rng.integers(55, 125)), float(rng.uniform(0.7, 1.3))
    wave = soundfont.play_note(0, preset, pitch, velocity, held)
    start = round(float(rng.uniform(0.0, 0.15)) * RATE)
    wave = wave[: len(out) - start]
    out[start : start + len(wave)] = wave
    out = _remove_offset(out)
    reverb = convolve_room(out, room_response(int(rng.integers(0, 4))))
    mixed = out + np.float32(rng.uniform(0.0, 0.25)) * reverb
    return soft_limit(set_level(mixed, -20 + 6 * float(np.log2(velocity / 90)) + float(rng.normal(0, 1.5))))


def _remove_offset(wave: np.ndarray) -> np.ndarray:
    """Return the wave without what is below 19 Hz; some samples of the soundfont are not centred on zero."""
    return lfilter([1, -1], [1, -0.995], wave).astype(np.float32)


def set_level(wave: np.ndarray, decibels: float) -> np.ndarray:
    """Return the wave at a level in dB below full scale, measured where it is not silent; silence stays silence."""
    blocks = wave[: len(wave) // 1200 * 1200].reshape(-1, 1200)
    powers = np.mean(blocks.astype(np.float64) ** 2, axis=1)
    loud = powers[powers > 0.01 * powers.max()] if len(powers) else powers
    if not len(loud) or loud.max() <= 1e-14:
        return wave
    return wave * np.float32(10 ** (decibels / 20) / np.sqrt(loud.mean()))


@lru_cache(maxsize=ROOMS)
def room_response(number: int) -> np.ndarray:
    """Return an impulse response: 0 is a small booth, `ROOMS` - 1 a hall of about two seconds."""
    rng = np.random.default_rng([41, number])
    seconds = 0.25 * 1.35**number
    time = np.arange(round(1.1 * seconds * RATE)) / RATE
    noise = rng.standard_normal(len(time))
    dull = sosfilt(butter(1, 2500, fs=RATE, output="sos"), noise)
    tail = 0.6 * noise * np.exp(-13.8 * time / seconds) + dull * np.exp(-6.9 * time / seconds)
    tail *= np.clip(time / 0.012, 0, 1)
    return (tail / np.sqrt(np.sum(tail**2))).astype(np.float32)


def convolve_room(wave: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Return the reverberation of a wave in a room, cut to the wave's length, as float32."""
    return fftconvolve(wave, response)[: len(wave)].astype(np.float32)


def soft_limit(wave: np.ndarray) -> np.ndarray:
    """Return the wave with values beyond ±0.6 compressed towards ±0.98."""
    size = np.abs(wave)
    compressed = 0.6 + 0.38 * np.tanh((size - 0.6) / 0.38)
    return np.where(size > 0.6, np.sign(wave) * compressed, wave).astype(np.float32)
