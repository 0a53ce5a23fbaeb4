"""The conversion of EfficientNet-Discogs's ONNX file."""
