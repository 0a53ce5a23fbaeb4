"""Drum patterns, one bar of 16 steps (12 in three-four): x accent, o plain, - ghost, ? now and then.

Letters name General-MIDI drum keys. The patterns are the common ones of drum methods, written out from memory of how
each style is counted.
"""

from __future__ import annotations

DRUMS = {
    "kick": 36, "snare": 38, "rim": 37, "clap": 39, "hat": 42, "open": 46, "pedal": 44, "ride": 51, "crash": 49,
    "shaker": 70, "bell": 56, "conga": 63, "low conga": 64, "clave": 75, "tambourine": 54, "tom1": 50, "tom2": 47,
    "tom3": 45,
}  # fmt: skip
# Soundfont levels differ by tens of decibels; these bring a kit's parts to a recording's balance.
GAINS = {
    "kick": 1.0, "snare": 0.8, "rim": 0.8, "clap": 0.9, "hat": 4.0, "open": 2.2, "pedal": 3.0, "ride": 1.3,
    "crash": 1.0, "shaker": 7.0, "bell": 0.4, "conga": 0.5, "low conga": 0.5, "clave": 0.6, "tambourine": 2.0,
    "tom1": 0.7, "tom2": 0.7, "tom3": 0.7,
}  # fmt: skip

PATTERNS: dict[str, dict[str, str]] = {
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
FILLS = (
    {"snare": "........o-oox.xx", "kick": "x......."},
    {"snare": "........oo......", "tom1": "..........oo....", "tom2": "............oo..", "tom3": "..............xx"},
    {"tom1": "........x.x.....", "tom3": "............x.x.", "snare": "...........o...o"},
    {"snare": "............xoxo"},
    {"kick": "..............x.", "snare": "...........xx..x"},
)
