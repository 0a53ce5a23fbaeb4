"""Convolutional networks: waveform front end, subsampling of spectrograms, EfficientNet, NFNet, two-path NFNet."""
