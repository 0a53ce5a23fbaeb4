"""Reproductions: one public file = one published ablation table, run again in miniature; it defines `REPRODUCTION`."""

from carrara.core.registry import Registry

REGISTRY = Registry("reproduction", "carrara.reproduce", "REPRODUCTION")
