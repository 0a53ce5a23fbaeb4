"""The task on MUSDB18."""
