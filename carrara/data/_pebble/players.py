"""Harmony, and what each player plays: bass, accompaniment, melody and drums as notes in beats, from a plan of chords.

Progressions are written in Roman numerals, which count from the major scale in both modes (VI of a minor key is `bVI`);
capitals are major, small letters minor; suffixes: 7 maj7 9 6 sus4 o (diminished) m7b5. Pitches are MIDI numbers, pitch
classes 0 to 11 from C. Styles are data (genres.py): a player looks up the chord at each step, so every style fits every
progression.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from carrara.data._pebble.genres import (
    ARPEGGIOS,
    BASS_STYLES,
    CHORD_HITS,
    DRUM_FILLS,
    DRUM_GAINS,
    DRUM_KEYS,
    DRUM_PATTERNS,
)

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


_BASS_STEPS = {"r": 0, "o": 12, "6": 9}
_CHORD_INDEX = {"3": 1, "5": 2, "7": 3}


@dataclass(frozen=True)
class Chord:
    """A chord: the pitch class of its root and the semitones above it."""

    root: int
    shape: tuple[int, ...]

    @property
    def pitch_classes(self) -> tuple[int, ...]:
        """Return the pitch classes, root first."""
        return tuple((self.root + step) % 12 for step in self.shape)

    def voices(self, centre: float) -> list[int]:
        """Return up to four pitches, one per pitch class, each in the octave that is nearest to `centre`."""
        return sorted(round((centre - c) / 12) * 12 + c for c in self.pitch_classes[:4])


class Note(NamedTuple):
    """A note: start and length (in beats, or in seconds once timed), MIDI pitch, and force from 0 to 1."""

    start: float
    length: float
    pitch: int
    force: float


@dataclass(frozen=True)
class SongPlan:
    """What all players share: bars, beats per bar, the chord at each beat, tonic, scale, and the force of each bar."""

    bars: int
    meter: int
    chords: tuple[Chord, ...]
    tonic: int
    scale: str
    forces: tuple[float, ...]

    def chord(self, beat: float) -> Chord:
        """Return the chord at a beat; the last one continues."""
        return self.chords[min(int(beat + 1e-6), len(self.chords) - 1)]

    def force(self, bar: int) -> float:
        """Return how strongly a bar is played, about 1."""
        return self.forces[min(bar, len(self.forces) - 1)]


def parse_chord(numeral: str, tonic: int) -> Chord:
    """Return the chord that a numeral such as `V7` or `bVI` names above the tonic's pitch class.

    Raises:
        ValueError: it is not such a numeral.
    """
    match = _NUMERAL.match(numeral)
    if not match or match[2].lower() not in _DEGREES or match[3] not in _SHAPES:
        raise ValueError(f"not a Roman numeral: {numeral!r}")
    accidental, degree, suffix = match.groups()
    root = tonic + _DEGREES[degree.lower()] + {"b": -1, "#": 1, "": 0}[accidental]
    shape = _SHAPES[suffix]
    if degree.islower() and suffix != "o":
        shape = tuple(3 if step == 4 else step for step in shape)
    return Chord(root % 12, shape)


def parse_progression(numerals: str, tonic: int) -> list[tuple[Chord, float]]:
    """Return `(chord, bars)` for a text such as `I vi IV,V`: blanks separate bars, commas divide a bar evenly."""
    return [
        (parse_chord(numeral, tonic), 1 / len(bar.split(","))) for bar in numerals.split() for numeral in bar.split(",")
    ]


def scale_pitches(scale: str, tonic: int, low: int, high: int) -> np.ndarray:
    """Return the pitches of a scale between two pitches, ascending."""
    pitches = np.arange(low, high + 1)
    return pitches[np.isin((pitches - tonic) % 12, SCALES[scale])]


def play_bass(plan: SongPlan, style: str, low: int, rng: np.random.Generator) -> list[Note]:
    """Return the bass line; roots are in the octave above `low`."""
    notes = []
    for bar in range(plan.bars):
        for step, length, degree in BASS_STYLES[style]:
            beat = bar * plan.meter + step / 4
            if step >= 4 * plan.meter or (step and rng.random() < 0.06):
                continue
            here, following = plan.chord(beat), plan.chord((np.floor(beat / plan.meter) + 1) * plan.meter)
            root = low + (here.root - low) % 12
            if degree == "a":
                target = low + (following.root - low) % 12
                pitch = target + (-1 if rng.random() < 0.5 else (1 if rng.random() < 0.4 else -2))
            elif degree == "n":
                pitch = low + (following.root - low) % 12
            elif degree in _CHORD_INDEX:
                pitch = root + here.shape[min(_CHORD_INDEX[degree], len(here.shape) - 1)]
            else:
                pitch = root + _BASS_STEPS[degree]
            force = plan.force(bar) * (1.0 if step % 8 == 0 else 0.88)
            notes.append(Note(beat, length / 4, pitch, force))
    return notes


def play_chords(plan: SongPlan, style: str, centre: float, rng: np.random.Generator) -> list[Note]:
    """Return chords or broken chords around the pitch `centre`."""
    notes = []
    gap = 0.02 if style in ("strum", "scratch", "skank") else 0.0
    for bar in range(plan.bars):
        start, force = bar * plan.meter, plan.force(bar)
        if style in ARPEGGIOS:
            size, order = ARPEGGIOS[style]
            for i in range(int(4 * plan.meter / size)):
                beat = start + i * size / 4
                voices = plan.chord(beat).voices(centre)
                voices = voices if len(voices) > 3 else [*voices, voices[0] + 12]
                pitch = voices[order[i % len(order)] % len(voices)]
                notes.append(Note(beat, size / 4 * 1.3, pitch, force * (1.0 if i % 4 == 0 else 0.82)))
            continue
        for step, length in CHORD_HITS[style]:
            if step >= 4 * plan.meter or (step and len(CHORD_HITS[style]) > 3 and rng.random() < 0.1):
                continue
            beat = start + step / 4
            stop = beat + min(length, 4 * plan.meter - step) / 4
            accent = force * (1.0 if step % 8 == 0 else 0.85)
            # Where the chord changes under a held chord, it is struck again.
            changes = [b for b in range(int(beat) + 1, int(np.ceil(stop))) if plan.chord(b) != plan.chord(b - 1)]
            for begin, end in pairwise([beat, *changes, stop]):
                voices = plan.chord(begin).voices(centre)
                notes += [Note(begin + gap * i, end - begin, pitch, accent) for i, pitch in enumerate(voices)]
    return notes


def play_melody(plan: SongPlan, centre: float, density: float, legato: float, rng: np.random.Generator) -> list[Note]:
    """Return a tune in two-bar phrases (a a' b a'): the rhythms of its motifs recur, the pitches follow the chords.

    Args:
        plan: The chords.
        centre: The middle of the range in MIDI pitch.
        density: About the fraction of eighths with an onset.
        legato: The fraction of the time to the next onset that a note is held.
        rng: Source of randomness.
    """
    phrase_beats = 2 * plan.meter
    pitches = scale_pitches(plan.scale, plan.tonic, round(centre) - 12, round(centre) + 12)
    motifs = [_draw_rhythm(phrase_beats, density, rng) for _ in range(2)]
    moves = [rng.choice((-2, -1, -1, 0, 1, 1, 2), len(motif)) for motif in motifs]
    notes: list[Note] = []
    for phrase in range(-(-plan.bars // 2)):
        motif = (0, 0, 1, 0)[phrase % 4]
        index = int(len(pitches) / 2 + rng.integers(-2, 3))
        onsets = motifs[motif]
        for i, onset in enumerate(onsets):
            beat = phrase * phrase_beats + onset
            step = int(moves[motif][i]) if rng.random() < 0.8 else int(rng.integers(-2, 3))
            index = int(np.clip(index + step, 1, len(pitches) - 2))
            is_closing = i == len(onsets) - 1 and motif == 0
            if is_closing or onset % 1 == 0:
                chord_classes = plan.chord(beat).pitch_classes[: 1 if is_closing else 3]
                in_chord = np.flatnonzero(np.isin(pitches % 12, chord_classes))
                index = int(in_chord[np.argmin(abs(in_chord - index))]) if len(in_chord) else index
            following = onsets[i + 1] if i + 1 < len(onsets) else phrase_beats
            force = plan.force(int(beat // plan.meter)) * (1.0 if onset % 1 == 0 else 0.85)
            notes.append(Note(beat, max((following - onset) * legato, 0.12), int(pitches[index]), force))
    return [note for note in notes if note.start < plan.bars * plan.meter]


def _draw_rhythm(beats: int, density: float, rng: np.random.Generator) -> list[float]:
    """Return onsets in beats: eighths, more of them on beats, and some sixteenths if they are dense."""
    eighths = np.arange(0, beats, 0.5)
    weight = np.where(eighths % 2 == 0, 1.5, np.where(eighths % 1 == 0, 1.15, 0.75))
    onsets = eighths[rng.random(len(eighths)) < density * weight]
    if density > 0.6:
        sixteenths = onsets[rng.random(len(onsets)) < (density - 0.6)] + 0.25
        onsets = np.union1d(onsets, sixteenths)
    onsets = onsets[onsets < beats - 0.9]
    return [float(onset) for onset in onsets] if len(onsets) > 1 else [0.0, float(beats // 2)]


def play_drums(plan: SongPlan, style: str, rng: np.random.Generator) -> list[Note]:
    """Return the drums: the pattern of each bar with variations, a fill in each fourth bar, a crash after it."""
    notes: list[Note] = []
    pattern = DRUM_PATTERNS[style]
    if not pattern:
        return notes
    steps = 4 * plan.meter
    for bar in range(plan.bars):
        fill = DRUM_FILLS[int(rng.integers(len(DRUM_FILLS)))] if bar % 4 == 3 and rng.random() < 0.8 else {}
        fill_start = min((line.find(c) for line in fill.values() for c in "xo" if c in line), default=steps)
        lines = []
        for drum, line in pattern.items():
            kept = line if drum in ("kick", "hat", "ride") else line[: max(fill_start, 4)]
            lines.append((drum, kept[:steps], plan.force(bar)))
        lines += [(drum, line[:steps], plan.force(bar)) for drum, line in fill.items()]
        if bar % 4 == 0 and bar and style not in ("jazz brush", "bossa", "waltz", "folk"):
            lines.append(("crash", "x", plan.force(bar) * 0.8))
        for drum, line, force in lines:
            for i, mark in enumerate(line):
                if mark == "." or (mark == "?" and rng.random() < 0.5):
                    continue
                level = {"x": 1.0, "o": 0.8, "-": 0.5, "?": 0.65}[mark] * force
                start = bar * plan.meter + i / 4
                notes.append(Note(start, 0.2, DRUM_KEYS[drum], level * np.sqrt(DRUM_GAINS[drum])))
    return notes
