"""A song from a seed: genre, key, tempo, feelings, players and their notes in seconds, with every label.

Feelings come first: a valence and an arousal from -1 to 1 tilt mode, register, consonance, tempo, density, touch and
loudness; the labels are read back from what was really written, so that they can be heard.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from carrara.data._pebble import parts
from carrara.data._pebble.genres import PROGRAMS, TEMPLATES, Genre
from carrara.data._pebble.labels import GENRES, TONICS
from carrara.data._pebble.moods import Heard, feelings, moods
from carrara.data._pebble.parts import Note, Plan
from carrara.data._pebble.patterns import PATTERNS
from carrara.data._pebble.theory import progression


@dataclass(frozen=True)
class Part:
    """One player: what it is tagged as, its role (melody, chords, bass, drums, pad), its preset and its notes."""

    instrument: str
    role: str
    program: int
    notes: tuple[Note, ...]


@dataclass(frozen=True)
class Song:
    """A stretch of a composed song: times in seconds from its beginning, loudness in dB below full scale, tilt in dB
    from low to high, and `labels` as labels.py spells them.
    """

    duration: float
    parts: tuple[Part, ...]
    reverb: float
    loudness: float
    tilt: float
    labels: dict[str, Any]


@dataclass(frozen=True)
class Feel:
    """What was drawn for a song before a note is written."""

    genre: str
    second: str | None
    template: Genre
    tonic: int
    minor: bool
    tempo: float
    valence: float
    arousal: float
    meter: int
    groove: str
    swing: float


def compose(number: int, side: str, duration: float, rng: np.random.Generator, vocal: bool = False) -> Song:
    """Return song `number` of a collection: `duration` seconds from its start or from inside its first bar.

    Genres follow each other in shuffled rounds of twelve, tonics too, so classes stay even. `side` (train, valid,
    test) picks which of an instrument's presets may play. `vocal` keeps the genres that have drums and writes the
    melody for a singer.
    """
    feel = _feel(number, rng, vocal)
    bars = int(np.ceil(duration * feel.tempo / 60 / feel.meter)) + 2
    plan = _plan(feel, bars, rng)
    players = _players(feel, plan, side, vocal, rng)
    beats = _clock(feel, (bars + 1) * feel.meter, rng)
    offset = float(rng.uniform(0, beats[feel.meter])) if rng.random() < 0.8 else 0.0
    timed = tuple(replace(part, notes=_timed(part, feel, beats - offset, rng)) for part in players)
    grid = beats - offset
    kept = (grid >= 0) & (grid < duration)
    down = np.arange(len(grid)) % feel.meter == 0
    loudness = -21 + 3.0 * feel.arousal + float(rng.normal(0, 1.2))
    tilt = float(np.clip(2.8 * feel.valence + rng.normal(0, 1.2), -4.5, 4.5))
    labels = _labels(feel, timed, loudness, tilt, rng)
    labels |= {
        "tempo": round(60 / float(np.median(np.diff(grid))), 2),
        "beats": [round(float(t), 4) for t in grid[kept]],
        "downbeats": [round(float(t), 4) for t in grid[kept & down]],
    }
    reverb = float(np.clip(feel.template.reverb * rng.uniform(0.5, 1.6), 0.02, 0.8))
    return Song(duration, timed, reverb, loudness, tilt, labels)


def preset(instrument: str, side: str, rng: np.random.Generator) -> int:
    """Return a General-MIDI program for an instrument; train and test know different ones where there are three.

    Of two presets train plays both, more often the first, and test more often the second.
    """
    known = PROGRAMS[instrument]
    if len(known) > 2:
        known = known[:-1] if side != "test" else known[1:]
        return int(known[int(rng.integers(len(known)))])
    first = rng.random() < (0.25 if side == "test" else 0.75)
    return int(known[0] if first else known[-1])


def _feel(number: int, rng: np.random.Generator, vocal: bool) -> Feel:
    names = [g for g in GENRES if not vocal or g not in ("ambient", "classical")]
    block, place = divmod(number, len(names))
    genre = names[int(np.random.default_rng([71, block, len(names)]).permutation(len(names))[place])]
    block, place = divmod(number, 12)
    tonic = int(np.random.default_rng([72, block]).permutation(12)[place])
    second = str(rng.choice([g for g in names if g != genre])) if rng.random() < 0.25 else None
    template = TEMPLATES[genre] if second is None else _blend(TEMPLATES[genre], TEMPLATES[second], rng)
    valence = float(np.clip(rng.normal(template.brightness * 0.5, 0.5), -1, 1))
    arousal = float(np.clip(rng.normal(template.energy * 0.7, 0.4), -1, 1))
    minor = bool(rng.random() < np.clip(template.minor - 0.3 * valence, 0.05, 0.95))
    low, high = template.tempo
    share = np.clip(0.5 + 0.36 * arousal + 0.14 * valence + rng.normal(0, 0.16), 0, 1)
    tempo = float(low * (high / low) ** share)
    drummed = [d for d in template.drums if not vocal or d != "none"]
    groove = str(rng.choice(drummed))
    if not vocal and groove != "waltz" and rng.random() < 0.07:
        groove = "none"
    meter = 3 if groove == "waltz" or (genre == "classical" and rng.random() < 0.25) else 4
    swing = float(rng.uniform(*template.swing))
    return Feel(genre, second, template, tonic, minor, tempo, valence, arousal, meter, groove, swing)


def _blend(first: Genre, second: Genre, rng: np.random.Generator) -> Genre:
    """Return the first template with some of the second's ways: its harmony, its sounds, or its beat."""
    way = int(rng.integers(3))
    if way == 0:
        return replace(first, major_loops=second.major_loops, minor_loops=second.minor_loops, comp=second.comp)
    if way == 1:
        return replace(first, lead=second.lead, chords=second.chords, reverb=second.reverb)
    if second.drums == ("none",) or second.drums[0] == "none":
        return replace(first, comp=second.comp, lead=second.lead)
    return replace(first, drums=tuple(d for d in second.drums if d != "waltz"), kits=second.kits, bass=second.bass)


def _plan(feel: Feel, bars: int, rng: np.random.Generator) -> Plan:
    loops = feel.template.minor_loops if feel.minor else feel.template.major_loops
    first, other = (str(rng.choice(loops)) for _ in range(2))
    chords: list[Any] = []
    section = 0
    while len(chords) < (bars + 1) * feel.meter:
        for chord, share in progression(first if section % 4 < 2 else other, feel.tonic):
            chords += [chord] * max(round(share * feel.meter), 1)
        section += 1
    # Every fourth bar builds, then the next section starts a little stronger or softer.
    section_force = np.clip(rng.normal(1.0, 0.08, bars // 4 + 2), 0.8, 1.15)
    forces = tuple(float(section_force[b // 4] * (1 + 0.02 * (b % 4))) for b in range(bars + 1))
    scale = feel.template.scales[int(feel.minor)]
    return Plan(bars, feel.meter, tuple(chords), feel.tonic, scale, forces)


def _players(feel: Feel, plan: Plan, side: str, vocal: bool, rng: np.random.Generator) -> list[Part]:
    """Return the band: each role's instrument, preset and notes in beats."""
    template = feel.template
    players: list[Part] = []
    centre = 61 + 6 * feel.valence + float(rng.uniform(-2, 2))

    def seat(role: str, choices: tuple[str, ...], notes: list[Note]) -> None:
        taken = {part.instrument for part in players if part.role != "pad"}
        free = [tag for tag in choices if tag not in taken] or list(choices)
        tag = str(rng.choice(free))
        players.append(Part(tag, role, preset(tag, side, rng), tuple(notes)))

    comp = str(rng.choice(template.comp))
    if comp == "waltz" and plan.meter == 4:
        comp = "block"
    seat(
        "chords", template.chords, parts.accompany(plan, comp, centre - (7 if comp in ("power", "gallop") else 0), rng)
    )
    if not PATTERNS[feel.groove] and comp in ("pad", "charleston", "stab"):
        # Without drums and with held chords nothing would tell the beat: someone has to count it.
        moving = str(rng.choice(("arp", "block", "pluck")))
        seat("chords", template.chords + template.lead, parts.accompany(plan, moving, centre + 5, rng))
    style = str(rng.choice(template.bass))
    if style != "none":
        low = 33 + int(rng.integers(0, 5)) if feel.genre != "classical" else 38
        seat("bass", template.low, parts.bass(plan, style, low, rng))
    if vocal or rng.random() < 0.85:
        density = float(np.clip(0.48 + 0.22 * feel.arousal + rng.normal(0, 0.06), 0.18, 0.85))
        legato = float(np.clip(0.85 - 0.25 * feel.arousal + rng.normal(0, 0.08), 0.35, 1.0))
        tune = parts.melody(plan, centre + (0 if vocal else 12), density, legato, rng)
        if vocal:
            players.append(Part("voice", "vocals", -1, tuple(tune)))
        else:
            seat("melody", template.lead, tune)
    if rng.random() < 0.3:
        seat("pad", template.chords + template.lead, parts.accompany(plan, "pad", centre + 7, rng))
    if PATTERNS[feel.groove]:
        kit = int(rng.choice(template.kits))
        players.append(Part("drums", "drums", kit, tuple(parts.drums(plan, feel.groove, rng))))
    return players


def _clock(feel: Feel, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return the time of each beat in seconds; people's tempo wanders by a per cent or two, machines' does not."""
    wander = {"electronic": 0.0, "hip hop": 0.001, "pop": 0.002}.get(feel.genre, 0.008)
    wander = 0.016 if feel.groove == "none" and wander else wander
    drift = np.cumsum(rng.normal(0, 1, count))
    drift = (drift - drift.mean()) / (np.ptp(drift) + 1e-9) * 2 * wander
    jitter = rng.normal(0, 0.15 * wander, count)
    periods = 60 / feel.tempo * (1 + drift + jitter)
    return np.concatenate([[0.0], np.cumsum(periods)])


def _timed(part: Part, feel: Feel, clock: np.ndarray, rng: np.random.Generator) -> tuple[Note, ...]:
    """Return the notes in seconds, swung, a little early or late, each struck a little differently."""
    human = 0.002 if feel.genre in ("electronic",) else 0.006 if part.role == "drums" else 0.009
    late = float(rng.normal(0.0, 0.004)) + (0.008 if feel.genre in ("jazz", "hip hop", "blues") else 0.0)
    touch = 0.62 + 0.17 * feel.arousal
    grid = np.arange(len(clock))
    notes = []
    for note in part.notes:
        unit = feel.template.unit
        start, stop = (_swung(b, feel.swing, unit) for b in (note.start, note.start + note.length))
        begin = float(np.interp(start, grid, clock)) + late + float(rng.normal(0, human))
        length = float(np.interp(min(stop, len(clock) - 1), grid, clock)) - float(np.interp(start, grid, clock))
        force = float(np.clip(note.force * touch * (1 + rng.normal(0, 0.06)), 0.08, 1.6 if part.role == "drums" else 1))
        notes.append(Note(round(begin, 5), round(max(length, 0.04), 4), note.pitch, round(force, 3)))
    return tuple(notes)


def _swung(beat: float, swing: float, unit: float) -> float:
    """Return where a straight position falls when the second half of each pair of `unit`s is played late."""
    pair, inside = divmod(beat, 2 * unit)
    share = inside / (2 * unit)
    share = share * 2 * swing if share < 0.5 else swing + (share - 0.5) * 2 * (1 - swing)
    return pair * 2 * unit + share * 2 * unit


def _labels(
    feel: Feel, players: tuple[Part, ...], loudness: float, tilt: float, rng: np.random.Generator
) -> dict[str, Any]:
    pitched = [note for part in players if part.role not in ("drums", "bass") for note in part.notes]
    onsets = sum(len(part.notes) for part in players) / max(max(n.start for p in players for n in p.notes), 1.0)
    register = float(np.mean([note.pitch for note in pitched])) if pitched else 60.0
    heard = Heard(feel.minor, register, feel.tempo, onsets, loudness, tilt, feel.template.energy)
    valence, arousal = feelings(heard, rng)
    instruments = sorted({part.instrument for part in players} - {"voice"})
    genres = [feel.genre] if feel.second is None else [feel.genre, feel.second]
    mode = "minor" if feel.minor else "major"
    felt = moods(valence, arousal, feel, rng)
    extra = [mode]
    extra += ["fast"] if feel.tempo >= 128 else ["slow"] if feel.tempo <= 84 else []
    extra += ["no drums"] if "drums" not in instruments else []
    extra += ["swing"] if feel.swing >= 0.56 else []
    extra += ["loud"] if loudness > -18.5 else []
    return {
        "key": f"{TONICS[feel.tonic]} {mode}",
        "genre": feel.genre,
        "genres": genres,
        "instruments": instruments,
        "moods": felt,
        "tags": [*genres, *instruments, *felt, *extra],
        "valence": valence,
        "arousal": arousal,
    }
