"""Tasks of SALAMI."""
