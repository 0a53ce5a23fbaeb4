"""What each player plays: bass, accompaniment, melody and drums as notes in beats, from a plan of chords.

Styles are data: steps are sixteenths of a beat's quarter, sixteen to the bar of four and twelve to the bar of three; a
player looks up which chord sounds at each step, so every style follows every progression.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from carrara.data._pebble.patterns import DRUMS, FILLS, GAINS, PATTERNS
from carrara.data._pebble.theory import Chord, ladder


class Note(NamedTuple):
    """A note: where it begins and how long it is held (beats, or seconds once timed), MIDI pitch, force from 0 to 1."""

    start: float
    length: float
    pitch: int
    force: float


@dataclass(frozen=True)
class Plan:
    """What all players share: bars, beats a bar, the chord at each beat, tonic, scale, the force of each bar."""

    bars: int
    meter: int
    chords: tuple[Chord, ...]
    tonic: int
    scale: str
    forces: tuple[float, ...]

    def chord(self, beat: float) -> Chord:
        """Return the chord that sounds at a beat; the last one sounds on."""
        return self.chords[min(int(beat + 1e-6), len(self.chords) - 1)]

    def force(self, bar: int) -> float:
        """Return how strongly a bar is played, about 1."""
        return self.forces[min(bar, len(self.forces) - 1)]


# (step, length in steps, degree): r root, o its octave, 3 5 6 7 chord degrees, a step into the next chord's root,
# n the next chord's root (played ahead of it, as in a tumbao).
BASS: dict[str, tuple[tuple[float, float, str], ...]] = {
    "none": (),
    "held": ((0, 15, "r"),),
    "root fifth": ((0, 7, "r"), (8, 6, "5")),
    "two feel": ((0, 7, "r"), (8, 5, "5"), (14, 2, "a")),
    "walking": ((0, 4, "r"), (4, 4, "3"), (8, 4, "5"), (12, 4, "a")),
    "shuffle": tuple((2 * i, 2, "rr5566"[i % 6] if i < 6 else "5") for i in range(8)),
    "pulse": tuple((2 * i, 2, "r") for i in range(8)),
    "octave": tuple((2 * i, 1.6, "ro"[i % 2]) for i in range(8)),
    "offbeat": tuple((4 * i + 2, 1.8, "r") for i in range(4)),
    "gallop": tuple((4 * i + s, 1, "r") for i in range(4) for s in (0, 2, 3)),
    "funk": ((0, 2, "r"), (3, 1, "r"), (6, 1, "o"), (7, 1, "7"), (10, 2, "r"), (13, 1, "5"), (14, 2, "a")),
    "slap": ((0, 1, "r"), (2, 1, "o"), (5, 1, "r"), (8, 2, "r"), (11, 1, "o"), (14, 1, "5")),
    "sub": ((0, 8, "r"), (10, 5, "r")),
    "tresillo": ((0, 5, "r"), (6, 5, "5"), (12, 4, "r")),
    "tumbao": ((6, 6, "5"), (12, 8, "n")),
    "reggae": ((0, 3, "r"), (6, 2, "r"), (8, 3, "3"), (11, 1, "5"), (12, 3, "5")),
}
# (step, length): the whole chord.
HITS: dict[str, tuple[tuple[float, float], ...]] = {
    "pad": ((0, 16),),
    "block": tuple((4 * i, 3.6) for i in range(4)),
    "strum": ((0, 4), (4, 2), (6, 3), (10, 2), (12, 2), (14, 2)),
    "charleston": ((0, 5), (6, 3)),
    "comp jazz": ((2, 2), (6, 3), (11, 2), (14, 2)),
    "stab": ((0, 1), (3, 1), (6, 1), (10, 2)),
    "scratch": tuple((i, 0.6) for i in (0, 2, 3, 4, 6, 7, 10, 11, 12, 14, 15)),
    "offbeat": tuple((4 * i + 2, 1.6) for i in range(4)),
    "skank": tuple((4 * i + 2, 0.9) for i in range(4)),
    "bubble": tuple((4 * i + s, 0.7) for i in range(4) for s in (1, 2, 3)),
    "shuffle": tuple((2 * i, 1.7) for i in range(8)),
    "bossa": ((0, 2), (3, 2), (6, 4), (10, 2), (13, 3)),
    "power": ((0, 6), (6, 4), (10, 6)),
    "gallop": tuple((4 * i + s, 1) for i in range(4) for s in (0, 2, 3)),
    "waltz": ((4, 3), (8, 3), (12, 3)),
}
# Steps between notes, and the chord's voices in the order they are touched.
ARPEGGIOS: dict[str, tuple[float, tuple[int, ...]]] = {
    "arp": (2, (0, 1, 2, 3, 2, 1, 2, 1)),
    "arp fast": (1, (0, 1, 2, 3)),
    "arp slow": (4, (0, 2, 1, 3)),
    "alberti": (2, (0, 2, 1, 2)),
    "pluck": (2, (0, 2, 1, 3, 0, 2, 1, 2)),
    "montuno": (2, (0, 3, 1, 2, 3, 0, 2, 3)),
}
_BASS_STEPS = {"r": 0, "o": 12, "6": 9}
_INDEX = {"3": 1, "5": 2, "7": 3}


def bass(plan: Plan, style: str, low: int, rng: np.random.Generator) -> list[Note]:
    """Return the bass line; roots lie in the octave above `low`."""
    notes = []
    for bar in range(plan.bars):
        for step, length, degree in BASS[style]:
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
            elif degree in _INDEX:
                pitch = root + here.shape[min(_INDEX[degree], len(here.shape) - 1)]
            else:
                pitch = root + _BASS_STEPS[degree]
            force = plan.force(bar) * (1.0 if step % 8 == 0 else 0.88)
            notes.append(Note(beat, length / 4, pitch, force))
    return notes


def accompany(plan: Plan, style: str, centre: float, rng: np.random.Generator) -> list[Note]:
    """Return chords or broken chords voiced around the pitch `centre`."""
    notes = []
    gap = 0.02 if style in ("strum", "scratch", "skank") else 0.0
    for bar in range(plan.bars):
        start, force = bar * plan.meter, plan.force(bar)
        if style in ARPEGGIOS:
            size, order = ARPEGGIOS[style]
            for i in range(int(4 * plan.meter / size)):
                beat = start + i * size / 4
                voices = plan.chord(beat).voiced(centre)
                voices = voices if len(voices) > 3 else [*voices, voices[0] + 12]
                pitch = voices[order[i % len(order)] % len(voices)]
                notes.append(Note(beat, size / 4 * 1.3, pitch, force * (1.0 if i % 4 == 0 else 0.82)))
            continue
        for step, length in HITS[style]:
            if step >= 4 * plan.meter or (step and len(HITS[style]) > 3 and rng.random() < 0.1):
                continue
            beat = start + step / 4
            length = min(length, 4 * plan.meter - step)
            accent = force * (1.0 if step % 8 == 0 else 0.85)
            # A chord that changes under a held one is struck again where it changes.
            for piece, stop in _pieces(plan, beat, beat + length / 4):
                voices = plan.chord(piece).voiced(centre)
                notes += [Note(piece + gap * i, stop - piece, pitch, accent) for i, pitch in enumerate(voices)]
    return notes


def _pieces(plan: Plan, start: float, stop: float) -> list[tuple[float, float]]:
    inner = [b for b in range(int(start) + 1, int(np.ceil(stop))) if plan.chord(b) != plan.chord(b - 1)]
    edges = [start, *inner, stop]
    return list(pairwise(edges))


def melody(plan: Plan, centre: float, density: float, legato: float, rng: np.random.Generator) -> list[Note]:
    """Return a tune in two-bar phrases (a a' b a'): a motif's rhythm comes back, its pitches follow the chords.

    `density` is about the share of eighths that carry an onset, `legato` the held share of the time to the next one.
    """
    span = 2 * plan.meter
    rungs = ladder(plan.scale, plan.tonic, round(centre) - 12, round(centre) + 12)
    motifs = [_rhythm(span, density, rng) for _ in range(2)]
    moves = [rng.choice((-2, -1, -1, 0, 1, 1, 2), len(motif)) for motif in motifs]
    notes: list[Note] = []
    for phrase in range(-(-plan.bars // 2)):
        form = (0, 0, 1, 0)[phrase % 4]
        place = int(len(rungs) / 2 + rng.integers(-2, 3))
        onsets = motifs[form]
        for i, onset in enumerate(onsets):
            beat = phrase * span + onset
            step = int(moves[form][i]) if rng.random() < 0.8 else int(rng.integers(-2, 3))
            place = int(np.clip(place + step, 1, len(rungs) - 2))
            closing = i == len(onsets) - 1 and form == 0
            if closing or onset % 1 == 0:
                place = _near_chord(rungs, place, plan.chord(beat), root=closing)
            following = onsets[i + 1] if i + 1 < len(onsets) else span
            force = plan.force(int(beat // plan.meter)) * (1.0 if onset % 1 == 0 else 0.85)
            notes.append(Note(beat, max((following - onset) * legato, 0.12), int(rungs[place]), force))
    return [note for note in notes if note.start < plan.bars * plan.meter]


def _rhythm(span: int, density: float, rng: np.random.Generator) -> list[float]:
    eighths = np.arange(0, span, 0.5)
    weight = np.where(eighths % 2 == 0, 1.5, np.where(eighths % 1 == 0, 1.15, 0.75))
    chosen = eighths[rng.random(len(eighths)) < density * weight]
    if density > 0.6:
        runs = chosen[rng.random(len(chosen)) < (density - 0.6)] + 0.25
        chosen = np.union1d(chosen, runs)
    chosen = chosen[chosen < span - 0.9]
    return [float(x) for x in chosen] if len(chosen) > 1 else [0.0, float(span // 2)]


def _near_chord(rungs: np.ndarray, place: int, chord: Chord, root: bool) -> int:
    wanted = chord.classes[:1] if root else chord.classes[:3]
    fitting = np.flatnonzero(np.isin(rungs % 12, wanted))
    return int(fitting[np.argmin(abs(fitting - place))]) if len(fitting) else place


def drums(plan: Plan, style: str, rng: np.random.Generator) -> list[Note]:
    """Return the drum part: the pattern bar by bar, small variations, a fill each fourth bar, a crash after it."""
    notes: list[Note] = []
    pattern = PATTERNS[style]
    if not pattern:
        return notes
    steps = 4 * plan.meter
    for bar in range(plan.bars):
        fill = FILLS[int(rng.integers(len(FILLS)))] if bar % 4 == 3 and rng.random() < 0.8 else {}
        cut = min((line.find(c) for line in fill.values() for c in "xo" if c in line), default=steps)
        for piece, line in pattern.items():
            kept = line if piece in ("kick", "hat", "ride") else line[: max(cut, 4)]
            notes += _line(piece, kept[:steps], bar * plan.meter, plan.force(bar), rng)
        for piece, line in fill.items():
            notes += _line(piece, line[:steps], bar * plan.meter, plan.force(bar), rng)
        if bar % 4 == 0 and bar and style not in ("jazz brush", "bossa", "waltz", "folk"):
            notes += _line("crash", "x", bar * plan.meter, plan.force(bar) * 0.8, rng)
    return notes


def _line(piece: str, line: str, start: float, force: float, rng: np.random.Generator) -> list[Note]:
    notes = []
    for i, mark in enumerate(line):
        if mark == "." or (mark == "?" and rng.random() < 0.5):
            continue
        level = {"x": 1.0, "o": 0.8, "-": 0.5, "?": 0.65}[mark] * force
        notes.append(Note(start + i / 4, 0.2, DRUMS[piece], level * np.sqrt(GAINS[piece])))
    return notes
