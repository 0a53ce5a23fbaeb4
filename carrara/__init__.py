"""Carrara: pre-train, extract, benchmark and show music-audio representations."""

__version__ = "0.1.0"
