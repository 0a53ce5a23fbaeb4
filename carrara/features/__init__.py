"""Windows in, layer features out, each computed once."""
