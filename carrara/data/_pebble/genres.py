"""Twelve genre templates, and the drum patterns, bass lines and accompaniments that they choose from.

A template fixes what makes a style (feel, harmony, roles) and leaves the rest open: every tuple is a choice. Tempo
ranges, instruments and drum patterns overlap on purpose, so no single cue gives the genre away.
"""

from __future__ import annotations

from dataclasses import dataclass

# General-MIDI programs of each instrument tag; where there are several, train and test use overlapping but different
# ones (compose.choose_preset).
PROGRAMS: dict[str, tuple[int, ...]] = {
    "accordion": (21, 23), "acoustic bass": (32, 35), "acoustic guitar": (24, 25), "brass": (61, 62, 63),
    "choir": (52, 53, 91), "distorted guitar": (30, 29), "electric bass": (33, 34, 36, 37),
    "electric guitar": (27, 26, 28), "electric piano": (4, 5), "flute": (73, 72, 75, 74), "mallets": (11, 12, 13),
    "organ": (16, 17, 18, 20), "piano": (0, 1, 2, 3), "saxophone": (65, 66, 64), "strings": (48, 49, 50, 51),
    "synth bass": (38, 39), "synth lead": (80, 81, 84, 87), "synth pad": (89, 90, 94, 95), "trumpet": (56, 59, 57),
}  # fmt: skip


@dataclass(frozen=True)
class Genre:
    """A template.

    Attributes:
        tempo: Slowest and fastest tempo in beats per minute.
        minor: Probability of the minor mode.
        energy: Mean arousal, from -1 to 1.
        brightness: Mean valence, from -1 to 1.
        drums: Names of drum patterns.
        kits: Drum presets.
        bass: Names of bass styles.
        comp: Names of accompaniment styles.
        lead: Instrument tags for the melody.
        chords: Instrument tags for the accompaniment.
        low: Instrument tags for the bass.
        major_loops: Progressions in Roman numerals, most of four bars.
        minor_loops: The same for the minor mode.
        swing: Range of where the second half of a pair of `unit`s falls; 0.5 is straight.
        unit: The unit that swings, in beats.
        scales: Names of the scales of the melody in major and minor.
        reverb: Mean level of the room.
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

DRUM_KEYS = {
    "kick": 36, "snare": 38, "rim": 37, "clap": 39, "hat": 42, "open": 46, "pedal": 44, "ride": 51, "crash": 49,
    "shaker": 70, "bell": 56, "conga": 63, "low conga": 64, "clave": 75, "tambourine": 54, "tom1": 50, "tom2": 47,
    "tom3": 45,
}  # fmt: skip
# Levels in the soundfont differ by tens of decibels; these give a kit the balance of a recording.
DRUM_GAINS = {
    "kick": 1.0, "snare": 0.8, "rim": 0.8, "clap": 0.9, "hat": 4.0, "open": 2.2, "pedal": 3.0, "ride": 1.3,
    "crash": 1.0, "shaker": 7.0, "bell": 0.4, "conga": 0.5, "low conga": 0.5, "clave": 0.6, "tambourine": 2.0,
    "tom1": 0.7, "tom2": 0.7, "tom3": 0.7,
}  # fmt: skip
# One bar of 16 steps (12 in three-four): x accent, o plain, - ghost, ? with probability 1/2.
DRUM_PATTERNS: dict[str, dict[str, str]] = {
    "rock": {"kick": "x.......x.?.....", "snare": "....x.......x...", "hat": "x.o.x.o.x.o.x.o."},
    "rock push": {"kick": "x.....o.o.x.....", "snare": "....x.......x..-", "hat": "x.o.x.o.x.o.x.o."},
    "ballad": {"kick": "x.........o.....", "rim": "........x.......", "hat": "o.-.o.-.o.-.o.-."},
    "shuffle": {"kick": "x.......x.....?.", "snare": "....x.......x...", "ride": "x.-.x.o.x.-.x.o."},
    "slow blues": {"kick": "x.....o.x.......", "snare": "....x.......x...", "hat": "x.o.x.o.x.o.x.o."},
    "four floor": {"kick": "x...x...x...x...", "clap": "....x.......x...", "open": "..x...x...x...x."},
    "techno": {"kick": "x...x...x...x...", "hat": "o-x-o-x-o-x-o-x-", "rim": "...o......o....?"},
    "breaks": {"kick": "x.........x..?..", "snare": "....x..-.-..x..o", "hat": "x.x.x.x.x.x.x.x."},
    "boom bap": {"kick": "x......?..xo....", "snare": "....x.......x...", "hat": "x.o.x.o.x.o.x.oo"},
    "trap": {"kick": "x.....o...?.o...", "clap": "........x.......", "hat": "xoxoxoxoxoxooooo"},
    "funk": {"kick": "x..o......x..o..", "snare": "....x..-.-..x..-", "hat": "xooxxoooxooxxooo"},
    "funk two": {
        "kick": "x.x.......o..x..", "snare": "....x..-.-.-x...", "hat": "x-o-x-o-x-o-x-.o",
        "open": "..............x.",
    },
    "jazz ride": {
        "ride": "x...x..ox...x..o", "pedal": "....x.......x...", "snare": "?......-..?....-",
        "kick": "-...-...-...-...",
    },
    "jazz brush": {"snare": "o-.-x-.-o-.-x-.-", "pedal": "....x.......x...", "kick": "o.......?......."},
    "bossa": {"kick": "x.....oox.....oo", "rim": "x..x..x...x..x..", "hat": "o-o-o-o-o-o-o-o-"},
    "salsa": {
        "clave": "x..x..x...x.x...", "conga": "..o...xx..o...xx", "low conga": "x.......x.......",
        "bell": "x.o.xoo.x.o.xoo.",
    },
    "samba": {
        "kick": "x..ox..ox..ox..o", "shaker": "xooxxooxxooxxoox", "tambourine": "..x...x...x...x.",
        "rim": "x.x..x.x.x..x.x.",
    },
    "one drop": {"kick": "........x.......", "rim": "........x.......", "hat": "x.o.x.o.x.o.x.oo"},
    "steppers": {"kick": "x...x...x...x...", "snare": "........x.....-.", "hat": "..x...x...x...xo"},
    "metal gallop": {"kick": "x.xxx.xxx.xxx.xx", "snare": "....x.......x...", "ride": "x...x...x...x..."},
    "metal double": {
        "kick": "oooooooooooooooo", "snare": "....x.......x...", "crash": "x...............",
        "hat": "x...x...x...x...",
    },
    "metal half": {"kick": "x..x..x...x.x...", "snare": "........x.......", "crash": "x...x...x...x..."},
    "folk": {"kick": "o.......o.......", "tambourine": "....x.......x...", "shaker": "o-o-o-o-o-o-o-o-"},
    "train": {"snare": "-.-oo.--..-oo.--", "kick": "x...x...x...x..."},
    "waltz": {"kick": "x...........", "rim": "....o...o...", "hat": "o...o...o..."},
    "none": {},
}  # fmt: skip
DRUM_FILLS = (
    {"snare": "........o-oox.xx", "kick": "x......."},
    {"snare": "........oo......", "tom1": "..........oo....", "tom2": "............oo..", "tom3": "..............xx"},
    {"tom1": "........x.x.....", "tom3": "............x.x.", "snare": "...........o...o"},
    {"snare": "............xoxo"},
    {"kick": "..............x.", "snare": "...........xx..x"},
)

# (step, length in steps, degree): r root, o its octave, 3 5 6 7 chord degrees, a a step into the next chord's root,
# n the next chord's root (played before it, as in a tumbao). A step is a sixteenth.
BASS_STYLES: dict[str, tuple[tuple[float, float, str], ...]] = {
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
# (step, length in steps): the whole chord.
CHORD_HITS: dict[str, tuple[tuple[float, float], ...]] = {
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
# Steps between notes, and the chord's voices in the order they are played.
ARPEGGIOS: dict[str, tuple[float, tuple[int, ...]]] = {
    "arp": (2, (0, 1, 2, 3, 2, 1, 2, 1)),
    "arp fast": (1, (0, 1, 2, 3)),
    "arp slow": (4, (0, 2, 1, 3)),
    "alberti": (2, (0, 2, 1, 2)),
    "pluck": (2, (0, 2, 1, 3, 0, 2, 1, 2)),
    "montuno": (2, (0, 3, 1, 2, 3, 0, 2, 3)),
}
