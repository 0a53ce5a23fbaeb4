"""Tasks of the Million Song Dataset."""
