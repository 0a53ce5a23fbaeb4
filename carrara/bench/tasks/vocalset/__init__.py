"""The rows of VocalSet."""
