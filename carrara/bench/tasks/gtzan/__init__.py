"""The rows of GTZAN."""
