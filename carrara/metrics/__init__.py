"""Measures: one file a measure, pure functions of arrays."""
