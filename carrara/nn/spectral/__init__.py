"""Spectra: framing, mel, MFCC, chroma and constant-Q transforms, each equal to a named reference."""
