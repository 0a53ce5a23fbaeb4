"""Twelve genre templates: what a style fixes (feel, harmony, roles) and what it leaves open (every tuple is a choice).

Tempo ranges, palettes and drum patterns overlap on purpose: no single cue gives the genre away.
"""

from __future__ import annotations

from dataclasses import dataclass

# General-MIDI programs that answer to each instrument tag; where there are several, train and test use
# overlapping but different ones (compose.preset).
PROGRAMS: dict[str, tuple[int, ...]] = {
    "accordion": (21, 23), "acoustic bass": (32, 35), "acoustic guitar": (24, 25), "brass": (61, 62, 63),
    "choir": (52, 53, 91), "distorted guitar": (30, 29), "electric bass": (33, 34, 36, 37),
    "electric guitar": (27, 26, 28), "electric piano": (4, 5), "flute": (73, 72, 75, 74), "mallets": (11, 12, 13),
    "organ": (16, 17, 18, 20), "piano": (0, 1, 2, 3), "saxophone": (65, 66, 64), "strings": (48, 49, 50, 51),
    "synth bass": (38, 39), "synth lead": (80, 81, 84, 87), "synth pad": (89, 90, 94, 95), "trumpet": (56, 59, 57),
}  # fmt: skip


@dataclass(frozen=True)
class Genre:
    """One template.

    Attributes:
        tempo: slowest and fastest, in beats a minute.
        minor: how likely the minor mode is.
        energy, brightness: where its arousal and valence lean, from -1 to 1.
        swing: where the second half of the divided unit may fall, 0.5 being straight; `unit` is that unit in beats.
        drums, kits, bass, comp: names of patterns and styles.
        lead, chords, low: instrument tags for melody, accompaniment and bass.
        major_loops, minor_loops: progressions in Roman numerals, most of four bars.
    """

    tempo: tuple[int, int]
    minor: float
    energy: float
    brightness: float
    drums: tuple[str, ...]
    kits: tuple[int, ...]
    bass: tuple[str, ...]
    comp: tuple[str, ...]
    lead: tuple[str, ...]
    chords: tuple[str, ...]
    low: tuple[str, ...]
    major_loops: tuple[str, ...]
    minor_loops: tuple[str, ...]
    swing: tuple[float, float] = (0.5, 0.52)
    unit: float = 0.5
    scales: tuple[str, str] = ("major", "minor")
    reverb: float = 0.2


_POP_MAJOR = ("I V vi IV", "I vi IV V", "I IV vi V", "I iii IV V", "IV I V vi")
_POP_MINOR = ("i bVI bIII bVII", "i iv bVI V", "i bVII bVI V", "i bIII bVII iv")
_FOLK_MAJOR = ("I IV I V", "I V IV I", "I vi ii V", "I I IV V7")
_BLUES_MAJOR = ("I7 IV7 I7 V7", "I7 I7 IV7 I7", "IV7 I7 V7,IV7 I7", "I7 IV7 I7,IV7 V7")
_CLASSIC_MAJOR = ("I V7 vi iii", "I IV V7 I", "I ii V7 I", "I vi ii V7", "I,V I IV,V7 I", "I V7 I V7")
_CLASSIC_MINOR = ("i V7 i iv", "i iv V7 i", "i bVI iv V7", "i,V i iv,V7 i", "i iio V7 i")
_JAZZ_MAJOR = ("ii7 V7 Imaj7 vi7", "Imaj7 vi7 ii7 V7", "Imaj7 IVmaj7 ii7 V7", "iii7 vi7 ii7,V7 I6")
_JAZZ_MINOR = ("iim7b5 V7 i7 i6", "i7 iv7 iim7b5 V7", "i6 bVImaj7 iim7b5,V7 i7")

TEMPLATES: dict[str, Genre] = {
    "ambient": Genre(
        (60, 96), 0.5, -0.7, 0.0, ("none", "none", "ballad"), (25,), ("held", "none"), ("pad", "pad", "arp slow"),
        ("flute", "choir", "mallets", "electric piano", "piano"), ("synth pad", "strings", "choir"),
        ("synth bass", "strings"), ("Imaj7 Imaj7 IVmaj7 IVmaj7", "I IVmaj7 vi IVmaj7", "Imaj7 iii7 IVmaj7 I"),
        ("i7 i7 bVImaj7 bVImaj7", "i bVImaj7 bIII bVII", "i7 iv7 i7 iv7"), reverb=0.6,
    ),
    "blues": Genre(
        (66, 132), 0.25, 0.0, 0.0, ("shuffle", "slow blues", "jazz brush"), (0, 8), ("walking", "shuffle"),
        ("shuffle", "block", "charleston"), ("electric guitar", "saxophone", "distorted guitar", "piano"),
        ("piano", "organ", "electric guitar"), ("electric bass", "acoustic bass"), _BLUES_MAJOR,
        ("i7 iv7 i7 V7", "i7 i7 iv7 i7", "iv7 i7 V7 i7"), (0.62, 0.68), 0.5, ("blues major", "blues minor"), 0.15,
    ),
    "classical": Genre(
        (58, 138), 0.45, -0.3, 0.0, ("none",), (48,), ("root fifth", "held"), ("alberti", "arp", "block", "waltz"),
        ("strings", "flute", "piano", "brass", "trumpet"), ("strings", "piano", "acoustic guitar"),
        ("strings", "acoustic bass"), _CLASSIC_MAJOR, _CLASSIC_MINOR, reverb=0.45,
    ),
    "electronic": Genre(
        (110, 140), 0.65, 0.6, 0.0, ("four floor", "techno", "breaks"), (24, 25), ("octave", "pulse", "offbeat"),
        ("arp fast", "stab", "pad", "offbeat"), ("synth lead", "piano", "synth pad", "choir"),
        ("synth pad", "synth lead", "piano", "strings"), ("synth bass",), _POP_MAJOR, ("i i bVI bVII", *_POP_MINOR),
        reverb=0.25,
    ),
    "folk": Genre(
        (72, 138), 0.3, -0.3, 0.3, ("none", "folk", "train", "waltz"), (0, 40), ("root fifth", "none"),
        ("pluck", "strum", "waltz"), ("flute", "accordion", "acoustic guitar", "strings"),
        ("acoustic guitar", "accordion", "piano"), ("acoustic bass", "electric bass"), _FOLK_MAJOR,
        ("i bVII i bVII", "i bVII bVI bVII", "i iv i V"), reverb=0.2,
    ),
    "funk": Genre(
        (88, 120), 0.6, 0.4, 0.3, ("funk", "funk two", "breaks"), (8, 16), ("funk", "slap", "octave"),
        ("stab", "scratch", "charleston"), ("saxophone", "brass", "synth lead", "trumpet", "organ"),
        ("electric guitar", "electric piano", "organ", "brass"), ("electric bass", "synth bass"),
        ("I7 I7 IV7 I7", "I9 I9 IV9 V9", "I7 IV7 I7 IV7"), ("i7 i7 IV9 i7", "i7 IV7 i7 IV7", "i7 bVII i7 V7"),
        (0.5, 0.57), 0.25, ("pentatonic major", "dorian"), 0.1,
    ),
    "hip hop": Genre(
        (70, 104), 0.75, 0.0, -0.2, ("boom bap", "trap", "breaks"), (25, 16), ("sub", "tresillo", "held"),
        ("stab", "charleston", "arp slow", "pad"), ("flute", "mallets", "electric piano", "synth lead", "trumpet"),
        ("electric piano", "piano", "strings", "synth pad"), ("synth bass", "electric bass", "acoustic bass"),
        ("Imaj7 iii7 vi7 IVmaj7", "ii7 V7 Imaj7 vi7"), ("i7 bVImaj7 i7 V7", "i i bVI bVII", "i iv7 bVImaj7 V"),
        (0.52, 0.6), 0.25, ("pentatonic major", "pentatonic minor"), 0.15,
    ),
    "jazz": Genre(
        (84, 208), 0.4, 0.1, 0.2, ("jazz ride", "jazz brush", "jazz ride"), (32, 40),
        ("walking", "walking", "two feel"),
        ("charleston", "block", "comp jazz"), ("saxophone", "trumpet", "mallets", "piano", "flute"),
        ("piano", "electric guitar", "mallets", "organ"), ("acoustic bass",), _JAZZ_MAJOR, _JAZZ_MINOR, (0.58, 0.67),
        0.5, ("major", "dorian"), 0.2,
    ),
    "latin": Genre(
        (92, 132), 0.5, 0.3, 0.4, ("bossa", "salsa", "samba"), (0, 8), ("tumbao", "tresillo", "root fifth"),
        ("montuno", "bossa", "strum"), ("trumpet", "flute", "piano", "brass", "accordion"),
        ("piano", "acoustic guitar", "mallets"), ("acoustic bass", "electric bass"), ("I6 IV V7 I6", *_JAZZ_MAJOR[:2]),
        ("i iv V7 i", "i7 iv7 V7 i7", "iim7b5 V7 i6 i6"), reverb=0.18,
    ),
    "metal": Genre(
        (104, 184), 0.9, 0.9, -0.6, ("metal gallop", "metal double", "metal half", "rock"), (16,), ("pulse", "gallop"),
        ("power", "gallop", "power"), ("distorted guitar", "synth lead", "choir", "strings"), ("distorted guitar",),
        ("electric bass",), ("I5 IV5 V5 I5", "I5 vi5 IV5 V5", "I5 bVII5 IV5 I5"),
        ("i5 bVI5 bVII5 i5", "i5 i5 bII5 i5", "i5 bIII5 iv5 bVI5", "i5 bVII5 bVI5 V5"), reverb=0.15,
    ),
    "pop": Genre(
        (84, 136), 0.35, 0.2, 0.4, ("rock", "rock push", "four floor", "ballad"), (0, 16, 24),
        ("pulse", "root fifth", "held"),
        ("strum", "block", "arp", "pad", "offbeat"), ("synth lead", "piano", "electric guitar", "strings", "saxophone"),
        ("piano", "acoustic guitar", "electric piano", "synth pad", "electric guitar"), ("electric bass", "synth bass"),
        _POP_MAJOR, _POP_MINOR,
    ),
    "reggae": Genre(
        (66, 98), 0.45, -0.1, 0.3, ("one drop", "steppers", "one drop"), (8, 0), ("reggae", "tresillo"),
        ("skank", "skank", "bubble"), ("saxophone", "trumpet", "organ", "synth lead", "flute"),
        ("organ", "electric guitar", "piano"), ("electric bass",), ("I V ii IV", "I IV I V", "I ii I ii"),
        ("i iv i iv", "i bVII i bVII", "i bVII bVI V"), (0.5, 0.58), 0.5, reverb=0.25,
    ),
}  # fmt: skip
