"""Tasks of Da-TACOS."""
