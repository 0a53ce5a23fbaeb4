"""The tasks on GTZAN."""
