"""Low-rank adapters on an encoder's attention (LoRA [hu2022]), by the package peft.

An adapted linear map is W·x + α/r · B·A·x with A and B of rank r; B starts at zero, so before the first step the output
is the encoder's own. Adapted are query, key, value and output projection of every attention (or one map that gives all
three); everything else is frozen. MARBLE v2 takes rank 8 and α 16 [notes/benchmark §4].

peft is imported only where it is needed: it imports transformers, which takes seconds.
"""

from __future__ import annotations

import torch
from torch import nn

from carrara.core.errors import UsageError
from carrara.encoders._base import Encoder


def attention_maps(encoder: Encoder) -> list[str]:
    """Return the names of the linear maps that are children of an attention, a module whose class name ends so."""
    return [
        f"{name}.{child_name}"
        for name, module in encoder.named_modules()
        if type(module).__name__.endswith("Attention")
        for child_name, child in module.named_children()
        if isinstance(child, nn.Linear)
    ]


def add_adapters(encoder: Encoder, rank: int, alpha: int, seed: int) -> None:
    """Add adapters to an encoder on the CPU, in place, and freeze all else.

    Args:
        encoder: the encoder.
        rank: r.
        alpha: α.
        seed: of the draw of A.

    Raises:
        UsageError: peft is not installed, or the encoder has no attention.
    """
    maps = attention_maps(encoder)
    if not maps:
        raise UsageError(f"{encoder.card.name}: has no attention to adapt; use --set mode=full")
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UsageError("--set mode=lora: needs peft; pip install 'carrara[finetune]'") from None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=maps), encoder)
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(".lora_" in name)
