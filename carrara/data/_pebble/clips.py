"""The five collections, clip by clip: what clip `number` is, on which sides it stands, and how it sounds.

A clip depends on the version, the collection and its number alone: `demo`, `small` and `full` share their first clips,
and any clip can be made again by itself. Sides follow the number, three train to one valid to two test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.signal import fftconvolve

from carrara.core.clip import Split
from carrara.core.errors import UsageError
from carrara.data._pebble import notes, voice
from carrara.data._pebble.compose import Part, Song, compose
from carrara.data._pebble.labels import SINGERS, STEMS, TECHNIQUES
from carrara.data._pebble.render import ROOMS, level, limited, play, render, room
from carrara.data._pebble.soundfont import RATE

VERSION = 1
COLLECTIONS = ("songs", "notes", "voices", "stems", "unlabelled")
SONG_SECONDS, VOICE_SECONDS, STEM_SECONDS, UNLABELLED_SECONDS = 9.5, 2.5, 8.0, 30.0
_ROUND: tuple[Split, ...] = ("train", "test", "train", "valid", "train", "test")
_SINGER_SIDES: dict[Split, tuple[str, ...]] = {
    "train": ("f1", "f3", "f5", "m1", "m3", "m5"),
    "valid": ("f6", "m6"),
    "test": ("f2", "f4", "m2", "m4"),
}
_STEM_LEVELS_DB = {"vocals": -19.0, "drums": -21.0, "bass": -22.0, "other": -23.0}
_TAKES = len(SINGERS) * len(TECHNIQUES)

Fresh = Callable[[], np.random.Generator]


@dataclass(frozen=True)
class Piece:
    """A clip before it sounds.

    Attributes:
        id: e.g. "songs-00012".
        seconds: its length.
        sides, groups: for each named split, its side, and what must not straddle sides.
        labels: as labels.py spells them.
        files: path below the suite's folder of each of its sounds; the first is the clip's own.
        sound: makes the sounds, int16 mono at 24 kHz, in the order of `files`.
    """

    id: str
    seconds: float
    sides: dict[str, Split]
    groups: dict[str, str]
    labels: dict[str, Any]
    files: tuple[str, ...]
    sound: Callable[[], list[np.ndarray]]


def piece(collection: str, number: int) -> Piece:
    """Return clip `number` of a collection, with its labels, not yet rendered.

    Raises:
        UsageError: no such collection.
    """
    makers = {"songs": _song, "notes": _note, "voices": _voice, "stems": _stems, "unlabelled": _unlabelled}
    if collection not in makers:
        raise UsageError(f"pebble has no collection {collection!r}: it has {', '.join(COLLECTIONS)}")
    seeds = [VERSION, COLLECTIONS.index(collection), number]
    # The performance has draws of its own, begun anew at each call, so that a piece sounds the same however often.
    fresh = partial(np.random.default_rng, [*seeds, 1])
    return makers[collection](f"{collection}-{number:05d}", number, np.random.default_rng(seeds), fresh)


def pcm(wave: np.ndarray) -> np.ndarray:
    """Return float samples within ±1 as int16."""
    return np.round(np.clip(wave, -1, 1) * 32767).astype(np.int16)


def _song(id: str, number: int, rng: np.random.Generator, fresh: Fresh) -> Piece:
    side = _ROUND[number % 6]
    song = compose(number, side, SONG_SECONDS, rng)
    files = (f"audio/songs/{id}.flac",)
    return Piece(
        id, SONG_SECONDS, {"songs": side}, {"songs": id}, song.labels, files, lambda: [pcm(render(song, fresh()))]
    )


def _unlabelled(id: str, number: int, rng: np.random.Generator, fresh: Fresh) -> Piece:
    song = compose(number, "train", UNLABELLED_SECONDS, rng)
    files = (f"audio/unlabelled/{id}.flac",)
    name = "unlabelled"
    return Piece(id, UNLABELLED_SECONDS, {name: "train"}, {name: id}, {}, files, lambda: [pcm(render(song, fresh()))])


def _note(id: str, number: int, rng: np.random.Generator, fresh: Fresh) -> Piece:
    side = _ROUND[number // len(notes.FAMILIES) % 6]
    family, preset, pitch = notes.draw(number, side, rng)
    labels = {"pitch": pitch, "family": family}
    files = (f"audio/notes/{id}.flac",)
    group = f"preset-{preset:03d}"
    sound = lambda: [pcm(notes.play(preset, pitch, fresh()))]  # noqa: E731
    return Piece(id, notes.SECONDS, {"notes": side}, {"notes": group}, labels, files, sound)


def _voice(id: str, number: int, rng: np.random.Generator, fresh: Fresh) -> Piece:
    """Return take `number // 120` of a singer and a technique; the two splits part singers, and recordings."""
    take, place = divmod(number, _TAKES)
    name, technique = SINGERS[place // len(TECHNIQUES)], TECHNIQUES[place % len(TECHNIQUES)]
    sides: dict[str, Split] = {
        "technique": next(side for side, names in _SINGER_SIDES.items() if name in names),
        "singer": _ROUND[(take + place) % 6],
    }

    def sound() -> list[np.ndarray]:
        rng = fresh()
        sung = voice.sing(name, technique, voice.exercise(name, technique, VOICE_SECONDS, rng), VOICE_SECONDS, rng)
        return [pcm(limited(level(in_room(sung, rng), -20 + float(rng.normal(0, 2)))))]

    labels = {"singer": name, "technique": technique}
    files = (f"audio/voices/{id}.flac",)
    return Piece(id, VOICE_SECONDS, sides, {"technique": name, "singer": id}, labels, files, sound)


def in_room(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a voice in one of the smaller rooms, or nearly dry."""
    wet = fftconvolve(wave, room(int(rng.integers(0, 5))))[: len(wave)].astype(np.float32)
    return wave + np.float32(rng.uniform(0, 0.2)) * wet


def _stems(id: str, number: int, rng: np.random.Generator, fresh: Fresh) -> Piece:
    side = _ROUND[number % 6]
    song = compose(number, side, STEM_SECONDS, rng, vocal=True)
    name = str(rng.choice(_SINGER_SIDES[side]))
    folder = f"audio/stems/{id}"
    files = tuple(f"{folder}/{stem}.flac" for stem in ("mixture", *STEMS))
    labels = {stem: f"{stem}.flac" for stem in STEMS}
    return Piece(id, STEM_SECONDS, {"stems": side}, {"stems": id}, labels, files, lambda: _mixed(song, name, fresh()))


def _mixed(song: Song, name: str, rng: np.random.Generator) -> list[np.ndarray]:
    """Return the mixture and its stems; the mixture is their sum to the last bit."""
    waves: dict[str, np.ndarray] = {stem: np.zeros(round(song.duration * RATE), np.float32) for stem in STEMS}
    for part in song.parts:
        wave = _sung(part, name, song.duration, rng) if part.role == "vocals" else play(part, song.duration)
        stem = part.role if part.role in STEMS else "other"
        waves[stem] = waves[stem] + level(wave, -20)
    hall = room(int(rng.integers(0, ROOMS - 2)))
    for stem, wave in waves.items():
        wet = fftconvolve(wave, hall)[: len(wave)].astype(np.float32)
        share = 0.0 if stem == "bass" else song.reverb
        waves[stem] = level(wave + np.float32(share) * wet, _STEM_LEVELS_DB[stem] + float(rng.normal(0, 1.5)))
    peak = max(float(np.max(np.abs(wave))) for wave in (sum(waves.values()), *waves.values()))
    gain = np.float32(min(1.0, 0.95 / peak) * rng.uniform(0.6, 1.0))
    stems = [pcm(waves[stem] * gain) for stem in STEMS]
    mixture = np.stack(stems).sum(axis=0, dtype=np.int16)
    return [mixture, *stems]


def _sung(part: Part, name: str, duration: float, rng: np.random.Generator) -> np.ndarray:
    """Return a melody sung by a singer in the octave that suits them; a note begun before the clip is left out."""
    who = voice.singer(name)
    mean = float(np.mean([note.pitch for note in part.notes]))
    shift = 12 * round(((who.low + who.high) / 2 - mean) / 12)
    tune = sorted(
        note._replace(pitch=note.pitch + shift, force=0.5 + note.force / 2) for note in part.notes if note.start >= 0
    )
    return voice.sing(name, str(rng.choice(("straight", "vibrato", "belt", "breathy"))), tune, duration, rng)
