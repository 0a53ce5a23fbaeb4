"""Transformers over frames and patches: HuBERT's, the conformer, the vision Transformer, and their parts."""
