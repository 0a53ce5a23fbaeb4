"""Source separation: a recurrent head on frozen frame features that masks a mixture's spectrogram (benchmark.md 1.9).

`run` is the constrained track's search; around it stand the head, the mixtures it learns from, the encoder's ears, the
reading of whole songs and the Wiener filter after the chosen head.
"""
