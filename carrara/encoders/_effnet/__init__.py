"""The official file of EfficientNet-Discogs."""
