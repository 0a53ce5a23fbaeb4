"""Tasks of Song Describer."""
