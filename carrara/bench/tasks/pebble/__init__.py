"""The rows of Pebble, the embedded suite."""
