"""Convolutional networks: front ends of waveforms and spectrograms, EfficientNet, NFNet."""
