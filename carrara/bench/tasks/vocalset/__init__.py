"""The tasks on VocalSet."""
