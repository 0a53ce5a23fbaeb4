"""Pre-training runs: one public file = one published family, which defines `RECIPE`; its ablations are variants."""

from carrara.core.registry import Registry

REGISTRY = Registry("recipe", "carrara.pretrain.recipes", "RECIPE")
