"""Short examples of music theory: an interval, a scale, a chord, a progression, a metre, each on one instrument.

Classes come in shuffled rounds, so they are balanced in each split; root, instrument, direction and tempo are drawn,
so that no single pitch or duration gives the class away. Instruments have other presets in test than in training.
"""

from __future__ import annotations

import numpy as np

from carrara.core.clip import SPLITS, Split
from carrara.data._pebble.compose import Composition, Track, choose_preset
from carrara.data._pebble.genres import DRUM_GAINS, DRUM_KEYS
from carrara.data._pebble.labels import INSTRUMENTS_OF_THEORY, INTERVALS, METERS, MODES, PROGRESSIONS, QUALITIES
from carrara.data._pebble.players import Note, parse_progression
from carrara.data._pebble.sizes import THEORY

THEORY_SECONDS = 3.2
MODE_STEPS = {
    "major": (0, 2, 4, 5, 7, 9, 11), "dorian": (0, 2, 3, 5, 7, 9, 10), "phrygian": (0, 1, 3, 5, 7, 8, 10),
    "lydian": (0, 2, 4, 6, 7, 9, 11), "mixolydian": (0, 2, 4, 5, 7, 9, 10), "minor": (0, 2, 3, 5, 7, 8, 10),
    "locrian": (0, 1, 3, 5, 6, 8, 10), "harmonic minor": (0, 2, 3, 5, 7, 8, 11),
}  # fmt: skip
QUALITY_STEPS = {
    "maj": (0, 4, 7), "min": (0, 3, 7), "dim": (0, 3, 6), "aug": (0, 4, 8), "maj7": (0, 4, 7, 11),
    "min7": (0, 3, 7, 10), "7": (0, 4, 7, 10), "hdim7": (0, 3, 6, 10),
}  # fmt: skip
CLASSES = dict(zip(THEORY, (INTERVALS, MODES, QUALITIES, PROGRESSIONS, METERS)))
LABELS = dict(zip(THEORY, ("interval", "scale", "quality", "progression", "meter")))


def compose_theory(kind: str, number: int, split: Split, rng: np.random.Generator) -> Composition:
    """Return example `number` of a kind: intervals, scales, qualities, progressions or meters.

    Args:
        kind: Which of them.
        number: Number of the example within its split; selects its class.
        split: train, valid or test; selects presets.
        rng: Source of randomness.
    """
    classes = CLASSES[kind]
    block, index = divmod(number, len(classes))
    order = np.random.default_rng([75, THEORY.index(kind), SPLITS.index(split), block]).permutation(len(classes))
    label = classes[int(order[index])]
    instrument = str(rng.choice(INSTRUMENTS_OF_THEORY))
    program, root = choose_preset(instrument, split, rng), int(rng.integers(48, 66))
    start, beat = float(rng.uniform(0.05, 0.25)), float(rng.uniform(0.3, 0.36))
    drums: list[Note] = []
    if kind == "intervals":
        notes = _play_interval(root, INTERVALS.index(label) + 1, start, rng)
    elif kind == "scales":
        steps = [*MODE_STEPS[label], 12]
        notes = [Note(start + beat * i, beat * 1.05, root + step, 0.7) for i, step in enumerate(steps)]
        if rng.random() < 0.5:
            notes = [note._replace(start=start + beat * (len(steps) - 1 - i)) for i, note in enumerate(notes)]
    elif kind == "qualities":
        pitches = [root + step for step in QUALITY_STEPS[label]]
        gap = float(rng.choice((0.0, 0.0, 0.35)))
        notes = [Note(start + gap * i, 1.4, pitch, 0.7) for i, pitch in enumerate(pitches)]
        notes += [Note(start + 1.6, 1.3, pitch, 0.7) for pitch in pitches]
    elif kind == "progressions":
        bar = float(rng.uniform(0.69, 0.74))
        chords = [chord for chord, _ in parse_progression(label, root % 12)]
        notes = []
        for i, chord in enumerate(chords):
            pitches = [36 + chord.root, *chord.voices(root + 10)]
            notes += [Note(start + bar * i, bar * 0.97, pitch, 0.65) for pitch in pitches]
    else:
        notes, drums = _play_meter(int(label), root, rng)
    tracks = [Track(instrument, "melody", program, _humanise(notes, rng))]
    if drums:
        kit = int(rng.choice((0, 8) if split != "test" else (16, 24)))
        tracks.append(Track("drums", "drums", kit, _humanise(drums, rng)))
    loudness, tilt = -20 + float(rng.normal(0, 1.5)), float(rng.normal(0, 1.2))
    reverb = float(rng.uniform(0.02, 0.3))
    return Composition(THEORY_SECONDS, tuple(tracks), reverb, loudness, tilt, {LABELS[kind]: label}, np.empty(0))


def _play_interval(root: int, semitones: int, start: float, rng: np.random.Generator) -> list[Note]:
    """Return the two notes up or down, then together; or together twice."""
    pair = [root, root + semitones]
    if rng.random() < 0.5:
        pair.reverse()
    gap = float(rng.choice((0.0, 0.7, 0.7)))
    first = [Note(start + gap * i, 0.75 if gap else 1.4, pitch, 0.7) for i, pitch in enumerate(pair)]
    return first + [Note(start + 1.6, 1.3, pitch, 0.7) for pitch in pair]


def _play_meter(beats: int, root: int, rng: np.random.Generator) -> tuple[list[Note], list[Note]]:
    """Return a pattern that repeats each bar: a low note and a kick on the first beat, others and a hat between."""
    period = float(rng.uniform(0.19, 0.225))
    offset = -period * float(rng.uniform(0, beats))
    pitches = [root, *(root + int(step) for step in rng.choice((3, 4, 5, 7, 9, 12), beats - 1))]
    has_note = [True, *(bool(each) for each in rng.random(beats - 1) < 0.7)]
    snare = int(rng.integers(1, beats))
    notes: list[Note] = []
    drums: list[Note] = []
    for count in range(int((THEORY_SECONDS - offset) / period) + 1):
        time, beat = offset + period * count, count % beats
        if time < 0:
            continue
        if has_note[beat]:
            octave, force = (-12, 0.85) if beat == 0 else (0, 0.55)
            notes.append(Note(time, period * 0.9, pitches[beat] + octave, force))
        drum, force = ("kick", 1.0) if beat == 0 else ("snare", 0.6) if beat == snare else ("hat", 0.6)
        drums.append(Note(time, 0.2, DRUM_KEYS[drum], force * float(np.sqrt(DRUM_GAINS[drum]))))
    return notes, drums


def _humanise(notes: list[Note], rng: np.random.Generator) -> tuple[Note, ...]:
    """Return the notes with small deviations of time and force."""
    return tuple(
        note._replace(
            start=round(max(0.0, note.start + float(rng.normal(0, 0.006))), 5),
            force=round(float(np.clip(note.force * (1 + rng.normal(0, 0.06)), 0.1, 1.6)), 3),
        )
        for note in notes
    )
