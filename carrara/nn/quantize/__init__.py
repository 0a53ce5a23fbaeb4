"""Quantizers: k-means, residual codebooks, random projections and a small neural codec."""
