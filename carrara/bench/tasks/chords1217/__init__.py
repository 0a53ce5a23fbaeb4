"""Tasks of Chords1217."""
