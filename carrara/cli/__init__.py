"""The verbs: one public file = one verb, whose function carries the file's name."""
