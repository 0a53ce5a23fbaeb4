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
# Names of 1 to 12 semitones.
INTERVALS = (
    "minor second", "major second", "minor third", "major third", "perfect fourth", "tritone", "perfect fifth",
    "minor sixth", "major sixth", "minor seventh", "major seventh", "octave",
)  # fmt: skip
MODES = ("major", "dorian", "phrygian", "lydian", "mixolydian", "minor", "locrian", "harmonic minor")
# Chords' qualities as in Harte's syntax [harte2005].
QUALITIES = ("maj", "min", "dim", "aug", "maj7", "min7", "7", "hdim7")
PROGRESSIONS = (
    "I V vi IV", "I vi IV V", "I IV V I", "ii V I I", "vi IV I V", "i bVI bIII bVII", "i iv V i", "i bVII bVI V",
)  # fmt: skip
METERS = ("3", "4", "5", "7")
# The instruments that play the examples of music theory.
INSTRUMENTS_OF_THEORY = (
    "piano", "electric piano", "organ", "strings", "acoustic guitar", "electric guitar", "mallets", "accordion",
    "flute", "trumpet", "synth lead", "brass",
)  # fmt: skip
SECTIONS = ("intro", "verse", "chorus", "bridge")
CHORDS = ("N", *(f"{tonic}:{mode}" for mode in ("maj", "min") for tonic in TONICS))
MELODY = ("rest", *(str(pitch) for pitch in range(48, 97)))
