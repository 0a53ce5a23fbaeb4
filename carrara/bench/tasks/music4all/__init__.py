"""Tasks of Music4All."""
