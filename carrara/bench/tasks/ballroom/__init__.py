"""Tasks of Ballroom."""
