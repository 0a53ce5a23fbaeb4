"""Tasks of Covers80."""
