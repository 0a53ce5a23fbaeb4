"""The labels of Pebble as constants, so that a task names its classes without heavy imports.

Keys are spelt as in mir_eval with the flats Db Eb Gb Ab Bb [notes/benchmark §1.1]; families are NSynth's eleven
[notes/benchmark §1.7], techniques VocalSet's ten in MARBLE's order [notes/benchmark §1.8].
"""

TONICS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
KEYS = tuple(f"{tonic} {mode}" for mode in ("major", "minor") for tonic in TONICS)
GENRES = (
    "ambient", "blues", "classical", "electronic", "folk", "funk", "hip hop", "jazz", "latin", "metal", "pop", "reggae",
)  # fmt: skip
INSTRUMENTS = (
    "accordion", "acoustic bass", "acoustic guitar", "brass", "choir", "distorted guitar", "drums", "electric bass",
    "electric guitar", "electric piano", "flute", "mallets", "organ", "piano", "saxophone", "strings", "synth bass",
    "synth lead", "synth pad", "trumpet",
)  # fmt: skip
MOODS = (
    "aggressive", "calm", "dark", "dreamy", "energetic", "epic", "groovy", "happy", "romantic", "sad", "tense",
)  # fmt: skip
TAGS = (*GENRES, *INSTRUMENTS, *MOODS, "fast", "slow", "major", "minor", "no drums", "swing", "loud")
FAMILIES = (
    "bass", "brass", "flute", "guitar", "keyboard", "mallet", "organ", "reed", "string", "synth_lead", "vocal",
)  # fmt: skip
PITCHES = tuple(range(40, 76))
TECHNIQUES = (
    "belt", "breathy", "inhaled", "lip_trill", "spoken", "straight", "trill", "trillo", "vibrato", "vocal_fry",
)  # fmt: skip
SINGERS = ("f1", "f2", "f3", "f4", "f5", "f6", "m1", "m2", "m3", "m4", "m5", "m6")
STEMS = ("vocals", "drums", "bass", "other")
