"""The rows of NSynth."""
