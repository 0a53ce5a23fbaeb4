"""Layers, spectra and quantisers in plain torch; a file leans on few neighbours, so that it can be copied out."""
