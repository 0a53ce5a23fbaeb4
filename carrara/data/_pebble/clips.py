"""The collections, clip by clip: the split, labels and audio of clip `number`.

A clip depends on the version, the collection and its number alone: `demo`, `small` and `full` share their first clips,
and any clip can be made again by itself. Splits follow the number: train, valid and test are 3:1:2, of retrieval 1:2:3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from carrara.core.clip import Split
from carrara.core.errors import UsageError
from carrara.data._pebble import voice
from carrara.data._pebble.compose import Composition, Track, compose
from carrara.data._pebble.labels import FAMILIES, PITCHES, SINGERS, STEMS, TECHNIQUES
from carrara.data._pebble.pieces import (
    PIECES_PER_COMPOSER,
    VERSIONS_PER_SONG,
    compose_cover,
    compose_form,
    compose_piece,
)
from carrara.data._pebble.render import (
    NOTE_SECONDS,
    ROOMS,
    convolve_room,
    render_note,
    render_song,
    render_track,
    room_response,
    set_level,
    soft_limit,
)
from carrara.data._pebble.sizes import SPLIT_CYCLE, THEORY
from carrara.data._pebble.soundfont import RATE
from carrara.data._pebble.theory import compose_theory

VERSION = 1
# A collection's index is part of its seeds, so new ones come last.
COLLECTIONS = ("songs", "notes", "voices", "stems", "unlabelled", "theory", "pieces", "covers", "forms")
SONG_SECONDS, VOICE_SECONDS, STEM_SECONDS, UNLABELLED_SECONDS = 9.5, 2.5, 8.0, 30.0
# General-MIDI programs of NSynth's families. As there, an instrument (here a preset) is in one split only: the last two
# of each family are for test, the one before them for valid. Presets without a clear pitch, or out of tune in the
# soundfont, are left out.
NOTE_PRESETS: dict[str, tuple[int, ...]] = {
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
_RETRIEVAL_CYCLE: tuple[Split, ...] = ("test", "valid", "train", "test", "valid", "test")
_SINGERS_BY_SPLIT: dict[Split, tuple[str, ...]] = {
    "train": ("f1", "f3", "f5", "m1", "m3", "m5"),
    "valid": ("f6", "m6"),
    "test": ("f2", "f4", "m2", "m4"),
}
_STEM_LEVELS_DB = {"vocals": -19.0, "drums": -21.0, "bass": -22.0, "other": -23.0}


@dataclass(frozen=True)
class PebbleClip:
    """A clip that is not rendered yet.

    Attributes:
        id: For example "songs-00012".
        seconds: Its duration.
        splits: Its split, by split scheme.
        groups: What may not be in two splits, by split scheme.
        labels: Labels as in labels.py.
        files: Paths of its audio files below the suite's folder; the first is the clip's own.
        render: Returns the audio of each file, int16 mono at 24 kHz, the same at each call.
    """

    id: str
    seconds: float
    splits: dict[str, Split]
    groups: dict[str, str]
    labels: dict[str, Any]
    files: tuple[str, ...]
    render: Callable[[], list[np.ndarray]]


def create_clip(collection: str, number: int) -> PebbleClip:
    """Return clip `number` of a collection with its labels, not rendered.

    Raises:
        UsageError: there is no such collection.
    """
    if collection not in COLLECTIONS:
        raise UsageError(f"pebble has no collection {collection!r}: it has {', '.join(COLLECTIONS)}")
    seeds = [VERSION, COLLECTIONS.index(collection), number]
    rng = np.random.default_rng(seeds)
    # Rendering has a generator of its own, created at each call, so a clip is the same however often it is rendered.
    new_rng = partial(np.random.default_rng, [*seeds, 1])
    id = f"{collection}-{number:05d}"
    files: tuple[str, ...] = (f"audio/{collection}/{id}.flac",)
    split = SPLIT_CYCLE[number % 6]

    if collection == "songs":
        song = compose(number, split, SONG_SECONDS, rng)
        render = lambda: [_to_pcm(render_song(song, new_rng()))]  # noqa: E731
        return PebbleClip(id, SONG_SECONDS, {"songs": split}, {"songs": id}, song.labels, files, render)

    if collection in ("theory", "pieces", "covers", "forms"):
        song, splits, groups = _compose_score(collection, number, rng)
        render = lambda: [_to_pcm(render_song(song, new_rng()))]  # noqa: E731
        return PebbleClip(id, song.duration, splits, groups, song.labels, files, render)

    if collection == "unlabelled":
        song = compose(number, "train", UNLABELLED_SECONDS, rng)
        render = lambda: [_to_pcm(render_song(song, new_rng()))]  # noqa: E731
        return PebbleClip(id, UNLABELLED_SECONDS, {collection: "train"}, {collection: id}, {}, files, render)

    if collection == "notes":
        split = SPLIT_CYCLE[number // len(FAMILIES) % 6]
        family = FAMILIES[number % len(FAMILIES)]
        presets = note_presets(family, split)
        preset, pitch = presets[int(rng.integers(len(presets)))], int(rng.choice(PITCHES))
        groups = {"notes": f"preset-{preset:03d}"}
        labels: dict[str, Any] = {"pitch": pitch, "family": family}
        render = lambda: [_to_pcm(render_note(preset, pitch, new_rng()))]  # noqa: E731
        return PebbleClip(id, NOTE_SECONDS, {"notes": split}, groups, labels, files, render)

    if collection == "voices":
        # Each take is one recording of every singer and technique.
        take, index = divmod(number, len(SINGERS) * len(TECHNIQUES))
        singer, technique = SINGERS[index // len(TECHNIQUES)], TECHNIQUES[index % len(TECHNIQUES)]
        splits = {
            "technique": next(split for split, singers in _SINGERS_BY_SPLIT.items() if singer in singers),
            "singer": SPLIT_CYCLE[(take + index) % 6],
        }
        groups = {"technique": singer, "singer": id}
        labels = {"singer": singer, "technique": technique}
        render = lambda: [_to_pcm(_render_voice(singer, technique, new_rng()))]  # noqa: E731
        return PebbleClip(id, VOICE_SECONDS, splits, groups, labels, files, render)

    song = compose(number, split, STEM_SECONDS, rng, has_vocals=True)
    singer = str(rng.choice(_SINGERS_BY_SPLIT[split]))
    files = tuple(f"audio/stems/{id}/{stem}.flac" for stem in ("mixture", *STEMS))
    labels = {stem: f"{stem}.flac" for stem in STEMS}
    render = lambda: _render_stems(song, singer, new_rng())  # noqa: E731
    return PebbleClip(id, STEM_SECONDS, {"stems": split}, {"stems": id}, labels, files, render)


def _compose_score(
    collection: str, number: int, rng: np.random.Generator
) -> tuple[Composition, dict[str, Split], dict[str, str]]:
    """Return a clip of the collections that come with more of their score, its split and group by split scheme."""
    id, split = f"{collection}-{number:05d}", SPLIT_CYCLE[number % 6]
    if collection == "theory":
        kind, index = THEORY[number % len(THEORY)], number // len(THEORY)
        split = SPLIT_CYCLE[index % 6]
        rounds, position = divmod(index, len(SPLIT_CYCLE))
        of_split = rounds * SPLIT_CYCLE.count(split) + SPLIT_CYCLE[:position].count(split)
        return compose_theory(kind, of_split, split, rng), {kind: split}, {kind: id}
    if collection == "pieces":
        piece = compose_piece(number, split, rng)
        composer = number // PIECES_PER_COMPOSER
        splits = {"pieces": split, "composers": _RETRIEVAL_CYCLE[composer % 6]}
        return piece, splits, {"pieces": id, "composers": piece.labels["composer"]}
    if collection == "covers":
        split = _RETRIEVAL_CYCLE[number // VERSIONS_PER_SONG % 6]
        cover = compose_cover(number, split, rng)
        return cover, {collection: split}, {collection: cover.labels["song"]}
    return compose_form(number, split, rng), {collection: split}, {collection: id}


def theory_instrument(number: int) -> str:
    """Return which instrument of `INSTRUMENTS_OF_THEORY` plays clip `number` of the collection `theory`."""
    rng = np.random.default_rng([VERSION, COLLECTIONS.index("theory"), number])
    song, _, _ = _compose_score("theory", number, rng)
    return song.tracks[0].instrument


def note_presets(family: str, split: Split) -> tuple[int, ...]:
    """Return the presets of a family of instruments in a split."""
    presets = NOTE_PRESETS[family]
    return {"train": presets[:-3], "valid": presets[-3:-2], "test": presets[-2:]}[split]


def _to_pcm(wave: np.ndarray) -> np.ndarray:
    """Return float samples within ±1 as int16."""
    return np.round(np.clip(wave, -1, 1) * 32767).astype(np.int16)


def _render_voice(singer: str, technique: str, rng: np.random.Generator) -> np.ndarray:
    """Return a singer's exercise in one of the smaller rooms, or nearly dry."""
    notes = voice.write_exercise(singer, technique, VOICE_SECONDS, rng)
    dry = voice.sing(singer, technique, notes, VOICE_SECONDS, rng)
    reverb = convolve_room(dry, room_response(int(rng.integers(0, 5))))
    mixed = dry + np.float32(rng.uniform(0, 0.2)) * reverb
    return soft_limit(set_level(mixed, -20 + float(rng.normal(0, 2))))


def _render_stems(song: Composition, singer: str, rng: np.random.Generator) -> list[np.ndarray]:
    """Return the mixture and its stems; the mixture is exactly their sum."""
    waves: dict[str, np.ndarray] = {stem: np.zeros(round(song.duration * RATE), np.float32) for stem in STEMS}
    for track in song.tracks:
        if track.role == "vocals":
            wave = _sing_track(track, singer, song.duration, rng)
        else:
            wave = render_track(track, song.duration)
        stem = track.role if track.role in STEMS else "other"
        waves[stem] = waves[stem] + set_level(wave, -20)
    room = room_response(int(rng.integers(0, ROOMS - 2)))
    for stem, wave in waves.items():
        reverb = np.float32(0.0 if stem == "bass" else song.reverb) * convolve_room(wave, room)
        waves[stem] = set_level(wave + reverb, _STEM_LEVELS_DB[stem] + float(rng.normal(0, 1.5)))
    peak = max(float(np.max(np.abs(wave))) for wave in (sum(waves.values()), *waves.values()))
    gain = np.float32(min(1.0, 0.95 / peak) * rng.uniform(0.6, 1.0))
    stems = [_to_pcm(waves[stem] * gain) for stem in STEMS]
    mixture = np.stack(stems).sum(axis=0, dtype=np.int16)
    return [mixture, *stems]


def _sing_track(track: Track, singer: str, duration: float, rng: np.random.Generator) -> np.ndarray:
    """Return a melody sung in the octave that suits the singer; notes that start before the clip are left out."""
    timbre = voice.singer_voice(singer)
    mean = float(np.mean([note.pitch for note in track.notes]))
    shift = 12 * round(((timbre.low + timbre.high) / 2 - mean) / 12)
    notes = sorted(
        note._replace(pitch=note.pitch + shift, force=0.5 + note.force / 2) for note in track.notes if note.start >= 0
    )
    return voice.sing(singer, str(rng.choice(("straight", "vibrato", "belt", "breathy"))), notes, duration, rng)
