"""Every head: shapes, independence of the padding, gradients for all weights; and the reach of each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from carrara.bench.probes.heads import REGISTRY
from carrara.bench.probes.heads._base import Head, HeadNetwork, HeadShape, masked_mean

DIM, OUTPUTS = 6, 3
EVERY = [(name, each) for name in REGISTRY.names() if REGISTRY.get(name).build for each in (True, False)]
POSSIBLE = [
    (name, each) for name, each in EVERY if (REGISTRY.get(name).each_row if each else REGISTRY.get(name).frames)
]


def build(name, each_row, hidden=16):
    torch.manual_seed(3)
    return REGISTRY.get(name).build(HeadShape(DIM, OUTPUTS, hidden, 0.1, each_row))


def batch(lengths, seed=0):
    rng = torch.Generator().manual_seed(seed)
    valid_BF = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return torch.randn(*valid_BF.shape, DIM, generator=rng) * valid_BF[..., None], valid_BF


def test_the_registry_holds_heads():
    assert {"attention-pool", "conv", "linear", "lstm", "mlp"} <= set(REGISTRY.names())
    assert all(isinstance(REGISTRY.get(name), Head) for name in REGISTRY.names())


@pytest.mark.parametrize(("name", "each"), POSSIBLE)
@settings(max_examples=12, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_logits_depend_neither_on_the_padding_nor_on_the_neighbours(name, each, lengths):
    head = build(name, each).eval()
    x_BFD, valid_BF = batch(lengths)
    with torch.no_grad():
        together = head(x_BFD, valid_BF)
        assert together.shape == ((len(lengths), max(lengths), OUTPUTS) if each else (len(lengths), OUTPUTS))
        for index, length in enumerate(lengths):
            alone = head(x_BFD[index : index + 1, :length], valid_BF[index : index + 1, :length])[0]
            torch.testing.assert_close(
                together[index, :length] if each else together[index], alone, atol=1e-5, rtol=1e-4
            )


@pytest.mark.parametrize(("name", "each"), POSSIBLE)
def test_every_weight_has_a_gradient(name, each):
    head = build(name, each)
    x_BFD, valid_BF = batch([5, 9, 2])
    logits = head(x_BFD, valid_BF)
    (logits[valid_BF] if each else logits).square().sum().backward()
    for label, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), label
        # The bias of the score shifts all scores alike, and the softmax does not depend on it.
        assert parameter.grad.abs().max() > 0 or label == "score.2.bias", label


def reach(name, frames=41):
    """Return the first and last frame, relative to the middle one, on which its logits depend."""
    head = build(name, True).eval()
    x_BFD, valid_BF = batch([frames])
    x_BFD.requires_grad_()
    head(x_BFD, valid_BF)[0, frames // 2].sum().backward()
    frames_F = x_BFD.grad[0].abs().sum(1).nonzero()[:, 0] - frames // 2
    return frames_F.min().item(), frames_F.max().item()


def test_the_reach_of_each_head():
    assert reach("linear") == reach("mlp") == (0, 0)
    assert reach("conv") == (-14, 14)
    assert reach("lstm") == (-20, 20)


def test_attention_with_equal_scores_is_the_mean_and_with_one_high_score_is_that_frame():
    head = build("attention-pool", False).eval()
    x_BFD, valid_BF = batch([4, 7])
    with torch.no_grad():
        for parameter in head.score.parameters():
            parameter.zero_()
        mean_BD = torch.stack([x_BFD[0, :4].mean(0), x_BFD[1].mean(0)])
        torch.testing.assert_close(head(x_BFD, valid_BF), head.layers(mean_BD))
        head.score = nn.Linear(DIM, 1, bias=False)
        head.score.weight.copy_(1e4 * torch.eye(DIM)[:1])
        loudest = torch.stack([x_BFD[0, x_BFD[0, :4, 0].argmax()], x_BFD[1, x_BFD[1, :, 0].argmax()]])
        torch.testing.assert_close(head(x_BFD, valid_BF), head.layers(loudest))


def test_the_mean_is_over_an_examples_own_rows():
    x_BFD, valid_BF = batch([4, 7])
    mean_BD = masked_mean(x_BFD + 100 * ~valid_BF[..., None], valid_BF)
    np.testing.assert_allclose(mean_BD, [x_BFD[0, :4].mean(0), x_BFD[1].mean(0)], atol=1e-6)


def test_a_network_sums_layers_by_a_softmax_and_gives_logits_for_rows_or_examples():
    torch.manual_seed(0)
    _, valid_BF = batch([2, 5])
    x_LRD = torch.randn(3, 7, DIM)
    network = HeadNetwork(REGISTRY.get("linear"), HeadShape(DIM, OUTPUTS), 3)
    weight_L = network.mix.detach().exp() / network.mix.detach().exp().sum()
    summed_RD = sum(weight * x_RD for weight, x_RD in zip(weight_L, x_LRD))
    outer = network.head.outer
    torch.testing.assert_close(network(x_LRD, valid_BF), F.linear(summed_RD, outer.weight, outer.bias))
    alone = HeadNetwork(REGISTRY.get("lstm"), HeadShape(DIM, OUTPUTS, 8, each_row=False), 1).eval()
    assert alone.mix is None and alone(x_LRD[:1], valid_BF).shape == (2, OUTPUTS)
