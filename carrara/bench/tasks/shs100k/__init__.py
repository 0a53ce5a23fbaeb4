"""Tasks of SHS100K."""
