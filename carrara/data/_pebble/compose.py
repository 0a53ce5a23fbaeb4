"""A song from a seed: genre, key, tempo, emotion, and tracks of notes in seconds, with every label.

Emotion comes first: a valence and an arousal from -1 to 1 tilt mode, register, consonance, tempo, density, touch and
loudness; the labels are computed from the notes that were written, so that the audio determines them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from carrara.data._pebble.genres import DRUM_PATTERNS, PROGRAMS, TEMPLATES, Genre
from carrara.data._pebble.labels import GENRES, TONICS
from carrara.data._pebble.players import (
    Note,
    SongPlan,
    parse_progression,
    play_bass,
    play_chords,
    play_drums,
    play_melody,
)


@dataclass(frozen=True)
class Track:
    """The notes of one player: instrument tag, role (melody, chords, bass, drums, pad, vocals), preset and notes."""

    instrument: str
    role: str
    program: int
    notes: tuple[Note, ...]


@dataclass(frozen=True)
class Composition:
    """A section of a composed song.

    Attributes:
        duration: Its length in seconds.
        tracks: The players' notes, in seconds from its start.
        reverb: Level of the room.
        loudness: Level in dB below full scale.
        tilt: Gain in dB from low to high frequencies.
        labels: Labels as in labels.py.
        beats: Every beat in seconds from the start of the section; the first ones may lie before it.
    """

    duration: float
    tracks: tuple[Track, ...]
    reverb: float
    loudness: float
    tilt: float
    labels: dict[str, Any]
    beats: np.ndarray


@dataclass(frozen=True)
class Character:
    """What is drawn for a song before a note is written: style, key, tempo in beats per minute, emotion and metre."""

    genre: str
    second_genre: str | None
    template: Genre
    tonic: int
    minor: bool
    tempo: float
    valence: float
    arousal: float
    meter: int
    groove: str
    swing: float


def compose(
    number: int, split: str, duration: float, rng: np.random.Generator, has_vocals: bool = False
) -> Composition:
    """Return song `number` of a collection: `duration` seconds from its start or from inside its first bar.

    Genres follow each other in shuffled rounds of twelve, and so do tonics, so classes are balanced.

    Args:
        number: Number of the song.
        split: train, valid or test; selects the presets of an instrument.
        duration: Seconds.
        rng: Source of randomness.
        has_vocals: Whether a singer has the melody; leaves out the genres without drums.
    """
    character = draw_character(number, rng, has_vocals)
    bars = int(np.ceil(duration * character.tempo / 60 / character.meter)) + 2
    plan = plan_chords(character, bars, rng)
    return perform(character, plan, arrange(character, plan, split, rng, has_vocals), duration, rng)


def perform(
    character: Character,
    plan: SongPlan,
    tracks: list[Track],
    duration: float,
    rng: np.random.Generator,
    from_start: bool = False,
) -> Composition:
    """Return `duration` seconds of a song whose notes are in beats, played in time, from its start or its first bar."""
    bars = plan.bars
    beats = draw_beat_times(character, (bars + 1) * character.meter, rng)
    offset = float(rng.uniform(0, beats[character.meter])) if not from_start and rng.random() < 0.8 else 0.0
    beats = beats - offset
    timed = tuple(replace(track, notes=time_notes(track, character, beats, rng)) for track in tracks)
    is_inside = (beats >= 0) & (beats < duration)
    is_downbeat = np.arange(len(beats)) % character.meter == 0
    loudness = -21 + 3.0 * character.arousal + float(rng.normal(0, 1.2))
    tilt = float(np.clip(2.8 * character.valence + rng.normal(0, 1.2), -4.5, 4.5))
    labels = _label(character, timed, loudness, tilt, rng)
    labels |= {
        "tempo": round(60 / float(np.median(np.diff(beats))), 2),
        "beats": [round(float(t), 4) for t in beats[is_inside]],
        "downbeats": [round(float(t), 4) for t in beats[is_inside & is_downbeat]],
    }
    reverb = float(np.clip(character.template.reverb * rng.uniform(0.5, 1.6), 0.02, 0.8))
    return Composition(duration, timed, reverb, loudness, tilt, labels, beats)


def choose_preset(instrument: str, split: str, rng: np.random.Generator) -> int:
    """Return a General-MIDI program of an instrument; train and test use different ones where there are three.

    Of two presets, train uses the first more often and test the second.
    """
    programs = PROGRAMS[instrument]
    if len(programs) > 2:
        programs = programs[:-1] if split != "test" else programs[1:]
        return int(programs[int(rng.integers(len(programs)))])
    is_first = rng.random() < (0.25 if split == "test" else 0.75)
    return int(programs[0] if is_first else programs[-1])


def draw_character(number: int, rng: np.random.Generator, has_vocals: bool = False) -> Character:
    """Return the character of song `number`; see `compose`."""
    names = [genre for genre in GENRES if not has_vocals or genre not in ("ambient", "classical")]
    block, index = divmod(number, len(names))
    genre = names[int(np.random.default_rng([71, block, len(names)]).permutation(len(names))[index])]
    block, index = divmod(number, 12)
    tonic = int(np.random.default_rng([72, block]).permutation(12)[index])
    second = str(rng.choice([name for name in names if name != genre])) if rng.random() < 0.25 else None
    template = TEMPLATES[genre] if second is None else _blend_templates(TEMPLATES[genre], TEMPLATES[second], rng)
    valence = float(np.clip(rng.normal(template.brightness * 0.5, 0.5), -1, 1))
    arousal = float(np.clip(rng.normal(template.energy * 0.7, 0.4), -1, 1))
    minor = bool(rng.random() < np.clip(template.minor - 0.3 * valence, 0.05, 0.95))
    slowest, fastest = template.tempo
    fraction = np.clip(0.5 + 0.36 * arousal + 0.14 * valence + rng.normal(0, 0.16), 0, 1)
    tempo = float(slowest * (fastest / slowest) ** fraction)
    grooves = [groove for groove in template.drums if not has_vocals or groove != "none"]
    groove = str(rng.choice(grooves))
    if not has_vocals and groove != "waltz" and rng.random() < 0.07:
        groove = "none"
    meter = 3 if groove == "waltz" or (genre == "classical" and rng.random() < 0.25) else 4
    swing = float(rng.uniform(*template.swing))
    return Character(genre, second, template, tonic, minor, tempo, valence, arousal, meter, groove, swing)


def _blend_templates(first: Genre, second: Genre, rng: np.random.Generator) -> Genre:
    """Return the first template with the second's harmony, instruments or beat."""
    choice = int(rng.integers(3))
    if choice == 0:
        return replace(first, major_loops=second.major_loops, minor_loops=second.minor_loops, comp=second.comp)
    if choice == 1:
        return replace(first, lead=second.lead, chords=second.chords, reverb=second.reverb)
    if second.drums == ("none",) or second.drums[0] == "none":
        return replace(first, comp=second.comp, lead=second.lead)
    return replace(first, drums=tuple(d for d in second.drums if d != "waltz"), kits=second.kits, bass=second.bass)


def plan_chords(character: Character, bars: int, rng: np.random.Generator) -> SongPlan:
    """Return the chords of a song, two loops of the template in turn, and how strongly its bars are played."""
    loops = character.template.minor_loops if character.minor else character.template.major_loops
    first, other = (str(rng.choice(loops)) for _ in range(2))
    chords: list[Any] = []
    section = 0
    while len(chords) < (bars + 1) * character.meter:
        for chord, bar_fraction in parse_progression(first if section % 4 < 2 else other, character.tonic):
            chords += [chord] * max(round(bar_fraction * character.meter), 1)
        section += 1
    # Four bars get stronger, then the next section starts a little stronger or softer.
    section_force = np.clip(rng.normal(1.0, 0.08, bars // 4 + 2), 0.8, 1.15)
    forces = tuple(float(section_force[b // 4] * (1 + 0.02 * (b % 4))) for b in range(bars + 1))
    scale = character.template.scales[int(character.minor)]
    return SongPlan(bars, character.meter, tuple(chords), character.tonic, scale, forces)


def arrange(
    character: Character,
    plan: SongPlan,
    split: str,
    rng: np.random.Generator,
    has_vocals: bool = False,
    tune: list[Note] | None = None,
) -> list[Track]:
    """Return each role's instrument, preset and notes in beats; a given tune is played instead of a new one."""
    template = character.template
    tracks: list[Track] = []
    centre = 61 + 6 * character.valence + float(rng.uniform(-2, 2))

    def add_track(role: str, instruments: tuple[str, ...], notes: list[Note]) -> None:
        used = {track.instrument for track in tracks if track.role != "pad"}
        free = [instrument for instrument in instruments if instrument not in used] or list(instruments)
        instrument = str(rng.choice(free))
        tracks.append(Track(instrument, role, choose_preset(instrument, split, rng), tuple(notes)))

    comp = str(rng.choice(template.comp))
    if comp == "waltz" and plan.meter == 4:
        comp = "block"
    comp_centre = centre - (7 if comp in ("power", "gallop") else 0)
    add_track("chords", template.chords, play_chords(plan, comp, comp_centre, rng))
    if not DRUM_PATTERNS[character.groove] and comp in ("pad", "charleston", "stab"):
        # Without drums and with held chords, no note would mark the beat.
        moving = str(rng.choice(("arp", "block", "pluck")))
        add_track("chords", template.chords + template.lead, play_chords(plan, moving, centre + 5, rng))
    style = str(rng.choice(template.bass))
    if style != "none":
        low = 33 + int(rng.integers(0, 5)) if character.genre != "classical" else 38
        add_track("bass", template.low, play_bass(plan, style, low, rng))
    if tune is not None:
        add_track("melody", template.lead, tune)
    elif has_vocals or rng.random() < 0.85:
        density = float(np.clip(0.48 + 0.22 * character.arousal + rng.normal(0, 0.06), 0.18, 0.85))
        legato = float(np.clip(0.85 - 0.25 * character.arousal + rng.normal(0, 0.08), 0.35, 1.0))
        own = play_melody(plan, centre + (0 if has_vocals else 12), density, legato, rng)
        if has_vocals:
            tracks.append(Track("voice", "vocals", -1, tuple(own)))
        else:
            add_track("melody", template.lead, own)
    if rng.random() < 0.3:
        add_track("pad", template.chords + template.lead, play_chords(plan, "pad", centre + 7, rng))
    if DRUM_PATTERNS[character.groove]:
        kit = int(rng.choice(template.kits))
        tracks.append(Track("drums", "drums", kit, tuple(play_drums(plan, character.groove, rng))))
    return tracks


def draw_beat_times(character: Character, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return the time of each beat in seconds; played tempo varies by one or two per cent, machines' does not."""
    variation = {"electronic": 0.0, "hip hop": 0.001, "pop": 0.002}.get(character.genre, 0.008)
    variation = 0.016 if character.groove == "none" and variation else variation
    drift = np.cumsum(rng.normal(0, 1, count))
    drift = (drift - drift.mean()) / (np.ptp(drift) + 1e-9) * 2 * variation
    jitter = rng.normal(0, 0.15 * variation, count)
    periods = 60 / character.tempo * (1 + drift + jitter)
    return np.concatenate([[0.0], np.cumsum(periods)])


def time_notes(track: Track, character: Character, beats: np.ndarray, rng: np.random.Generator) -> tuple[Note, ...]:
    """Return the notes in seconds, with swing and small deviations of time and force."""
    std = 0.002 if character.genre == "electronic" else 0.006 if track.role == "drums" else 0.009
    delay = float(rng.normal(0.0, 0.004)) + (0.008 if character.genre in ("jazz", "hip hop", "blues") else 0.0)
    touch = 0.62 + 0.17 * character.arousal
    max_force = 1.6 if track.role == "drums" else 1
    indices = np.arange(len(beats))
    notes = []
    for note in track.notes:
        unit = character.template.unit
        start, stop = (_swing_beat(b, character.swing, unit) for b in (note.start, note.start + note.length))
        begin = float(np.interp(start, indices, beats)) + delay + float(rng.normal(0, std))
        length = float(np.interp(min(stop, len(beats) - 1), indices, beats)) - float(np.interp(start, indices, beats))
        force = float(np.clip(note.force * touch * (1 + rng.normal(0, 0.06)), 0.08, max_force))
        notes.append(Note(round(begin, 5), round(max(length, 0.04), 4), note.pitch, round(force, 3)))
    return tuple(notes)


def _swing_beat(beat: float, swing: float, unit: float) -> float:
    """Return where a straight position falls when the second half of each pair of `unit`s is played late."""
    pair, inside = divmod(beat, 2 * unit)
    fraction = inside / (2 * unit)
    fraction = fraction * 2 * swing if fraction < 0.5 else swing + (fraction - 0.5) * 2 * (1 - swing)
    return pair * 2 * unit + fraction * 2 * unit


def _label(
    character: Character, tracks: tuple[Track, ...], loudness: float, tilt: float, rng: np.random.Generator
) -> dict[str, Any]:
    """Return the labels of a song except those of time.

    Valence and arousal are on EmoMusic's scale of 1 to 9. Their signs are those that the psychology of music agrees on:
    mode, register and bright timbre for valence; tempo, density and loudness for arousal [gabrielsson2010]. A little
    noise models the disagreement between raters.
    """
    pitched = [note for track in tracks if track.role not in ("drums", "bass") for note in track.notes]
    last_onset = max(max(note.start for track in tracks for note in track.notes), 1.0)
    onset_rate = sum(len(track.notes) for track in tracks) / last_onset
    register = float(np.mean([note.pitch for note in pitched])) if pitched else 60.0
    energy = character.template.energy
    pace = np.log2(character.tempo / 105)
    density = np.log2(max(onset_rate, 1.0) / 14)
    raw_arousal = 0.5 * pace + 0.16 * density + 0.14 * (loudness + 21) / 3 + 0.3 * energy
    mode_valence = -0.2 if character.minor else 0.2
    raw_valence = mode_valence + 0.05 * (register - 65) + 0.4 * pace + 0.11 * tilt - 0.1 * max(energy, 0)
    rated = [5 + 3.0 * value + rng.normal(0, 0.35) for value in (raw_valence, raw_arousal)]
    valence, arousal = (round(float(np.clip(value, 1, 9)), 3) for value in rated)

    instruments = sorted({track.instrument for track in tracks} - {"voice"})
    genres = [character.genre] if character.second_genre is None else [character.genre, character.second_genre]
    mode = "minor" if character.minor else "major"
    moods = _choose_moods(valence, arousal, character, rng)
    extra = [mode]
    extra += ["fast"] if character.tempo >= 128 else ["slow"] if character.tempo <= 84 else []
    extra += ["no drums"] if "drums" not in instruments else []
    extra += ["swing"] if character.swing >= 0.56 else []
    extra += ["loud"] if loudness > -18.5 else []
    return {
        "key": f"{TONICS[character.tonic]} {mode}",
        "genre": character.genre,
        "genres": genres,
        "instruments": instruments,
        "moods": moods,
        "tags": [*genres, *instruments, *moods, *extra],
        "valence": valence,
        "arousal": arousal,
    }


def _choose_moods(valence: float, arousal: float, character: Character, rng: np.random.Generator) -> list[str]:
    """Return one to three mood words in alphabetical order, more of them where the emotion is strong."""
    v, a = (valence - 5) / 4, (arousal - 5) / 4
    is_dance = character.genre in ("funk", "latin", "reggae", "electronic", "hip hop")
    is_soft = character.genre in ("ambient", "classical", "folk", "jazz")
    is_epic = character.genre in ("classical", "metal", "ambient")
    score = {
        "aggressive": a - 0.6 * v - 0.45 + 0.3 * (character.genre == "metal"),
        "calm": -a + 0.1 * is_soft - 0.15,
        "dark": -v - 0.2 + 0.15 * character.minor,
        "dreamy": -a + 0.3 * (character.template.reverb > 0.4) - 0.35,
        "energetic": a - 0.15,
        "epic": 0.3 * a + 0.35 * is_epic + 0.15 * character.minor - 0.1,
        "groovy": 0.35 * is_dance + 0.3 * (character.swing > 0.55) - 0.25 + 0.1 * a,
        "happy": v + 0.2 * a - 0.2,
        "romantic": 0.4 * v - 0.6 * a + 0.25 * is_soft - 0.15,
        "sad": -v - 0.6 * a - 0.2,
        "tense": -0.6 * v + 0.6 * a - 0.25,
    }
    ranked = sorted(score, key=lambda word: -(score[word] + rng.normal(0, 0.07)))
    return sorted([ranked[0], *(word for word in ranked[1:3] if score[word] > 0.05)])
