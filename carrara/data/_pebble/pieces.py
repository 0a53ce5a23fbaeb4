"""Songs with more of their score as labels: pieces of a composer, cover versions, and songs with sections.

A composer is a genre's template with each choice made once: instruments, groove, bass, accompaniment, a few loops, a
narrow range of tempo. A cover version keeps a song's tune and chords and has another key, tempo, genre and instruments.
A form is a sequence of intro, verse, chorus and bridge; a section that returns has the same notes, played anew.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from carrara.data._pebble.compose import (
    Character,
    Composition,
    Track,
    arrange,
    choose_preset,
    draw_character,
    perform,
    plan_chords,
)
from carrara.data._pebble.genres import DRUM_PATTERNS, TEMPLATES, Genre
from carrara.data._pebble.labels import GENRES, TONICS
from carrara.data._pebble.players import (
    Chord,
    Note,
    SongPlan,
    parse_progression,
    play_bass,
    play_chords,
    play_drums,
    play_melody,
)

PIECE_SECONDS, COVER_SECONDS, FORM_SECONDS = 7.0, 6.0, 20.0
PIECES_PER_COMPOSER, VERSIONS_PER_SONG = 5, 4
FORMS = (
    ("intro", "verse", "chorus", "verse", "chorus", "bridge"),
    ("verse", "chorus", "verse", "chorus", "bridge", "chorus"),
    ("intro", "verse", "verse", "chorus", "verse", "chorus"),
    ("verse", "verse", "bridge", "verse", "chorus", "verse"),
    ("chorus", "verse", "chorus", "bridge", "verse", "chorus"),
)
# The force, the register of the tune, and who plays, in each section.
SECTION_STYLES = {
    "intro": (0.75, None, ("chords",)),
    "verse": (0.85, 0, ("chords", "bass", "drums", "melody")),
    "chorus": (1.15, 12, ("chords", "bass", "drums", "melody", "pad")),
    "bridge": (0.8, 5, ("bass", "melody", "pad")),
}
HARTE = {
    (0, 4, 7): "maj", (0, 3, 7): "min", (0, 4, 7, 10): "7", (0, 3, 7, 10): "min7", (0, 4, 7, 11): "maj7",
    (0, 3, 7, 11): "minmaj7", (0, 4, 7, 10, 14): "9", (0, 3, 7, 10, 14): "min9", (0, 4, 7, 9): "maj6",
    (0, 3, 7, 9): "min6", (0, 5, 7): "sus4", (0, 3, 6): "dim", (0, 3, 6, 10): "hdim7", (0, 7): "5",
}  # fmt: skip


def compose_piece(number: int, split: str, rng: np.random.Generator) -> Composition:
    """Return piece `number`, by composer `number // 5`: with chords, melody, composer and a caption as labels."""
    composer = number // PIECES_PER_COMPOSER
    genre, template = _draw_composer(composer)
    character = _in_style(draw_character(number, rng), genre, template, rng)
    bars = int(np.ceil(PIECE_SECONDS * character.tempo / 60 / character.meter)) + 2
    plan = plan_chords(character, bars, rng)
    centre = 70 + 5 * character.valence + float(rng.uniform(-2, 2))
    tune = play_melody(plan, centre, float(rng.uniform(0.4, 0.6)), float(rng.uniform(0.6, 0.9)), rng)
    tracks = arrange(character, plan, split, rng, tune=tune)
    piece = perform(character, plan, tracks, PIECE_SECONDS, rng)
    labels = {
        **piece.labels,
        "meter": str(plan.meter),
        "chords": chord_segments(plan, piece.beats, PIECE_SECONDS),
        "melody": melody_segments(piece),
        "composer": f"composer-{composer:04d}",
        "caption": write_caption(character, piece.labels),
    }
    return replace(piece, labels=labels)


def compose_cover(number: int, split: str, rng: np.random.Generator) -> Composition:
    """Return version `number % 4` of song `number // 4`."""
    song, version = divmod(number, VERSIONS_PER_SONG)
    song_rng = np.random.default_rng([74, song])
    original = replace(draw_character(song, song_rng), meter=4)
    # Enough for the fastest version.
    bars = int(np.ceil(COVER_SECONDS * 1.3 * original.tempo / 60 / 4)) + 3
    plan = plan_chords(original, bars, song_rng)
    tune = play_melody(plan, 70, float(song_rng.uniform(0.4, 0.6)), 0.85, song_rng)
    shifts, genres = song_rng.permutation(12) - 6, song_rng.permutation(len(GENRES))
    tempi = song_rng.permutation([0.78, 0.92, 1.08, 1.26])

    shift, genre = int(shifts[version]), GENRES[int(genres[version])]
    chords = tuple(Chord((chord.root + shift) % 12, chord.shape) for chord in plan.chords)
    version_plan = replace(plan, chords=chords, tonic=(plan.tonic + shift) % 12)
    played = [note._replace(pitch=note.pitch + shift) for note in tune]
    template = TEMPLATES[genre]
    grooves = [groove for groove in template.drums if groove != "waltz"] or ["none"]
    character = replace(
        original,
        genre=genre,
        second_genre=None,
        template=template,
        tonic=version_plan.tonic,
        tempo=original.tempo * float(tempi[version]),
        groove=str(rng.choice(grooves)),
        swing=float(rng.uniform(*template.swing)),
    )
    tracks = arrange(character, version_plan, split, rng, tune=played)
    cover = perform(character, version_plan, tracks, COVER_SECONDS, rng)
    labels = {"song": f"song-{song:04d}", "key": cover.labels["key"], "tempo": cover.labels["tempo"]}
    return replace(cover, labels=labels)


def compose_form(number: int, split: str, rng: np.random.Generator) -> Composition:
    """Return a song of sections, from its start, with them and its chords as labels."""
    character = draw_character(number, rng)
    template = character.template
    groove = str(rng.choice([groove for groove in template.drums if groove not in ("waltz", "none")] or ["rock"]))
    character = replace(character, meter=4, groove=groove, tempo=float(np.clip(character.tempo, 84, 160)))
    # Six sections fill the clip.
    section_bars = 2 if 16 * 60 / character.tempo > 7 else 4
    names = FORMS[int(rng.integers(len(FORMS)))]
    sections = {name: _write_section(name, character, section_bars, rng) for name in dict.fromkeys(names)}

    instruments: dict[str, tuple[str, ...]] = {
        "chords": template.chords, "bass": template.low, "melody": template.lead,
        "pad": template.chords + template.lead,
    }  # fmt: skip
    tracks = []
    for role, choices in instruments.items():
        instrument = str(rng.choice(choices))
        tracks.append(Track(instrument, role, choose_preset(instrument, split, rng), ()))
    tracks.append(Track("drums", "drums", int(rng.choice(template.kits)), ()))
    section_beats = section_bars * character.meter
    played = []
    for track in tracks:
        notes = [
            note._replace(start=note.start + index * section_beats)
            for index, name in enumerate(names)
            for note in sections[name][1].get(track.role, ())
        ]
        if notes:
            played.append(replace(track, notes=tuple(notes)))
    chords = tuple(chord for name in names for chord in sections[name][0].chords[:section_beats])
    bars = len(names) * section_bars
    plan = replace(sections[names[0]][0], bars=bars, chords=chords, forces=(1.0,) * bars)
    form = perform(character, plan, played, FORM_SECONDS, rng, from_start=True)
    edges = [float(form.beats[index * section_beats]) for index in range(len(names) + 1)]
    structure = [
        [round(start, 3), round(min(end, FORM_SECONDS), 3), name]
        for (start, end), name in zip(pairwise(edges), names)
        if start < FORM_SECONDS - 0.5
    ]
    structure[-1][1] = FORM_SECONDS
    return replace(form, labels={"structure": structure, "chords": chord_segments(plan, form.beats, FORM_SECONDS)})


def chord_segments(plan: SongPlan, beats: np.ndarray, duration: float) -> list[list[Any]]:
    """Return the chords of a plan as [start, end, chord in Harte's syntax] within 0 and `duration` seconds."""
    segments: list[list[Any]] = []
    for index, (start, end) in enumerate(pairwise(beats.tolist())):
        chord = plan.chord(index)
        name = f"{TONICS[chord.root]}:{HARTE[chord.shape]}"
        start, end = round(max(start, 0.0), 4), round(min(end, duration), 4)
        if start >= end:
            continue
        if segments and segments[-1][2] == name:
            segments[-1][1] = end
        else:
            segments.append([start, end, name])
    return segments


def melody_segments(piece: Composition) -> list[list[float]]:
    """Return the notes of the melody as [start, end, frequency in Hz]; a note ends where the next one starts."""
    notes = sorted(note for track in piece.tracks if track.role == "melody" for note in track.notes)
    ends = [*(note.start for note in notes[1:]), np.inf]
    segments = []
    for note, following in zip(notes, ends):
        start, end = max(note.start, 0.0), min(note.start + note.length, following, piece.duration)
        if end - start > 0.02:
            segments.append([round(start, 4), round(end, 4), round(440 * 2 ** ((note.pitch - 69) / 12), 2)])
    return segments


def write_caption(character: Character, labels: dict[str, Any]) -> str:
    """Return a sentence that says genre, tempo, key, mood and instruments of a song."""
    speed = "fast " if character.tempo >= 128 else "slow " if character.tempo <= 84 else ""
    mood, *_ = labels["moods"]
    first, *others = [name for name in labels["instruments"] if name != "drums"] or ["drums"]
    played = f"{', '.join([first, *others[:-1]])} and {others[-1]}" if others else first
    drums = "" if "drums" in labels["instruments"] else ", without drums"
    feel = " with a swing" if character.swing >= 0.56 else ""
    article = "An" if f"{mood}"[0] in "aeiou" else "A"
    return f"{article} {mood} {speed}{character.genre} piece in {labels['key']}{feel}, played on {played}{drums}."


def _draw_composer(composer: int) -> tuple[str, Genre]:
    """Return a composer's genre, and its template with every choice made."""
    rng = np.random.default_rng([73, composer])
    block, index = divmod(composer, len(GENRES))
    genre = GENRES[int(np.random.default_rng([76, block]).permutation(len(GENRES))[index])]
    template = TEMPLATES[genre]

    def pick(choices: tuple[Any, ...], count: int = 1) -> tuple[Any, ...]:
        return tuple(choices[int(i)] for i in rng.permutation(len(choices))[:count])

    slowest, fastest = template.tempo
    tempo = float(rng.uniform(slowest * 1.05, fastest * 0.95))
    swing = float(rng.uniform(*template.swing))
    return genre, replace(
        template,
        tempo=(round(0.95 * tempo), round(1.05 * tempo)),
        drums=pick(template.drums),
        kits=pick(template.kits),
        bass=pick(template.bass),
        comp=pick(template.comp),
        lead=pick(template.lead, 2),
        chords=pick(template.chords, 2),
        low=pick(template.low),
        major_loops=pick(template.major_loops, 2),
        minor_loops=pick(template.minor_loops, 2),
        swing=(swing, swing),
        reverb=float(template.reverb * rng.uniform(0.6, 1.5)),
    )


def _in_style(character: Character, genre: str, template: Genre, rng: np.random.Generator) -> Character:
    """Return a character in the style of a composer."""
    groove = str(template.drums[0])
    return replace(
        character,
        genre=genre,
        second_genre=None,
        template=template,
        tempo=float(rng.uniform(*template.tempo)),
        groove=groove,
        meter=3 if groove == "waltz" else 4,
        swing=template.swing[0],
    )


def _write_section(
    name: str, character: Character, bars: int, rng: np.random.Generator
) -> tuple[SongPlan, dict[str, list[Note]]]:
    """Return the chords of a kind of section, and each role's notes in beats."""
    template, meter = character.template, character.meter
    force, register, roles = SECTION_STYLES[name]
    loop = str(rng.choice(template.minor_loops if character.minor else template.major_loops))
    chords: list[Chord] = []
    while len(chords) < (bars + 1) * meter:
        for chord, share in parse_progression(loop, character.tonic):
            chords += [chord] * max(round(share * meter), 1)
    scale = template.scales[int(character.minor)]
    plan = SongPlan(bars, meter, tuple(chords), character.tonic, scale, (force,) * (bars + 1))
    comp = str(rng.choice([comp for comp in template.comp if comp != "waltz"] or ["block"]))
    notes: dict[str, list[Note]] = {}
    if "chords" in roles:
        notes["chords"] = play_chords(plan, comp, 60, rng)
    if "bass" in roles:
        style = str(rng.choice([style for style in template.bass if style != "none"] or ["root fifth"]))
        notes["bass"] = play_bass(plan, style, 35, rng)
    if register is not None and "melody" in roles:
        notes["melody"] = play_melody(plan, 66 + register, 0.4 + 0.1 * (name == "chorus"), 0.85, rng)
    if "pad" in roles:
        notes["pad"] = play_chords(plan, "pad", 67, rng)
    if "drums" in roles and DRUM_PATTERNS[character.groove]:
        notes["drums"] = play_drums(plan, character.groove, rng)
    return plan, notes
