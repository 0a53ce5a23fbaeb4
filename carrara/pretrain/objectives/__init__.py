"""Objectives: what the one training loop needs to know of masked prediction, of training on tags, and of the codec."""
