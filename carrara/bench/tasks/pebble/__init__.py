"""The tasks on Pebble, the embedded suite."""
