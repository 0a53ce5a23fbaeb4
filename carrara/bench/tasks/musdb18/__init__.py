"""Rows on MUSDB18."""
