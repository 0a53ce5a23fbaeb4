"""Supervised pre-training on tags: MAEST's, and the same for a convolutional network (encoders.md 1.4 and 1.5)."""
