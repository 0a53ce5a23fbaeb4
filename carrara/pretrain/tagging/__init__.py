"""Supervised pre-training on tags: MAEST, and the same recipe for a convolutional network [alonso2023]."""
