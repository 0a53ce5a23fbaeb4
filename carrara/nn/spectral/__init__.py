"""Spectra: framing, mel, MFCC, constant-Q, chroma, tuning, and the multi-scale spectral distance."""
