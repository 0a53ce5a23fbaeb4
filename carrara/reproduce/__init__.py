"""The studies: one public file = one published ablation table to be run again in miniature, which defines `STUDY`."""

from carrara.core.registry import Registry

REGISTRY = Registry("study", "carrara.reproduce", "STUDY")
