"""Monitors: ranks of known matrices, the largest attention logit by a naive product."""

import pytest
import torch

from carrara.encoders._hub.load import build_encoder
from carrara.pretrain.monitors import effective_rank, measure
from carrara.pretrain.objectives._masked_network import MaskedPrediction
from carrara.pretrain.recipes._base import ObjectiveSettings

NETWORK = {"conv_channels": 8, "dim": 32, "num_layers": 3, "num_heads": 2, "ffn_dim": 32, "position_groups": 4}


def test_the_effective_rank_counts_equal_directions():
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(64, 5, generator=generator)).Q
    rows = torch.linalg.qr(torch.randn(400, 6, generator=generator)).Q
    # Orthonormal columns that are orthogonal to the constant one too, so that centring changes nothing.
    columns = torch.linalg.qr(torch.cat([torch.ones(400, 1), rows], dim=1)).Q[:, 1:6]
    assert effective_rank((columns @ basis.T)[None]) == pytest.approx(5, abs=1e-3)
    assert effective_rank(torch.ones(1, 50, 8)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_largest_attention_logit_is_that_of_a_naive_product(attention):
    encoder = build_encoder("mert-v0", 0, {**NETWORK, "attention": attention})
    with torch.no_grad():
        for layer in encoder.encoder.layers:
            layer.attention.q_proj.weight.mul_(30)
    model = MaskedPrediction(encoder, {}, ObjectiveSettings(), 0)
    samples = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    metrics = measure(model, samples)
    largest = 0.0
    layers = encoder.eval().layer_outputs(encoder.conv_features(samples))
    for layer, inputs in zip(encoder.encoder.layers, layers):
        for clip in inputs.detach():
            q, k = layer.attention.q_proj(clip).detach(), layer.attention.k_proj(clip).detach()
            for head in range(2):
                part = slice(16 * head, 16 * head + 16)
                largest = max(largest, float((q[:, part] @ k[:, part].T / 4).abs().max()))
    assert metrics["attention_logit"] == pytest.approx(largest, rel=1e-4)
    assert sorted(key for key in metrics if key.startswith("rank/")) == [
        "rank/0",
        "rank/1",
        "rank/2",
        "rank/cnn",
        "rank/last",
    ]
