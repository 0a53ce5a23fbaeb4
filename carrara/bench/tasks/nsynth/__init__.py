"""The tasks on NSynth."""
