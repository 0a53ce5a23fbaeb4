"""Probes on frozen features: the grid search, its stacked training, and the heads of the semi-constrained track."""
