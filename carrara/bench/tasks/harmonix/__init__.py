"""Tasks of the Harmonix Set."""
