"""Tasks of FMA."""
