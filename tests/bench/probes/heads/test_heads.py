"""What every head keeps: shapes, no trace of padding, gradients everywhere; and what each one claims to hear."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from carrara.bench.probes.heads import REGISTRY
from carrara.bench.probes.heads._base import Head, HeadShape, Reader, mean_of_known

WIDTH, OUTPUTS = 6, 3
EVERY = [(name, each) for name in REGISTRY.names() for each in (True, False)]
POSSIBLE = [
    (name, each) for name, each in EVERY if (REGISTRY.get(name).each_row if each else REGISTRY.get(name).frames)
]


def built(name, each_row, hidden=16):
    torch.manual_seed(3)
    return REGISTRY.get(name).build(HeadShape(WIDTH, OUTPUTS, hidden, 0.1, each_row))


def batch(lengths, seed=0):
    draw = torch.Generator().manual_seed(seed)
    known_BF = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return torch.randn(*known_BF.shape, WIDTH, generator=draw) * known_BF[..., None], known_BF


def test_the_shelf_holds_heads():
    assert {"attention-pool", "conv", "linear", "lstm", "mlp"} <= set(REGISTRY.names())
    assert all(isinstance(REGISTRY.get(name), Head) for name in REGISTRY.names())


@pytest.mark.parametrize(("name", "each"), POSSIBLE)
@settings(max_examples=12, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_an_answer_does_not_depend_on_the_padding_or_the_neighbours(name, each, lengths):
    head = built(name, each).eval()
    x_BFD, known_BF = batch(lengths)
    with torch.no_grad():
        together = head(x_BFD, known_BF)
        assert together.shape == ((len(lengths), max(lengths), OUTPUTS) if each else (len(lengths), OUTPUTS))
        for place, length in enumerate(lengths):
            alone = head(x_BFD[place : place + 1, :length], known_BF[place : place + 1, :length])[0]
            torch.testing.assert_close(
                together[place, :length] if each else together[place], alone, atol=1e-5, rtol=1e-4
            )


@pytest.mark.parametrize(("name", "each"), POSSIBLE)
def test_every_weight_learns(name, each):
    head = built(name, each)
    x_BFD, known_BF = batch([5, 9, 2])
    logits = head(x_BFD, known_BF)
    (logits[known_BF] if each else logits).square().sum().backward()
    for label, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), label
        # A score's constant moves all scores alike, and the softmax does not hear it.
        assert parameter.grad.abs().max() > 0 or label == "score.2.bias", label


def reach(name, frames=41):
    """Return which frames the answer for the middle one depends on."""
    head = built(name, True).eval()
    x_BFD, known_BF = batch([frames])
    x_BFD.requires_grad_()
    head(x_BFD, known_BF)[0, frames // 2].sum().backward()
    heard = x_BFD.grad[0].abs().sum(1).nonzero()[:, 0] - frames // 2
    return heard.min().item(), heard.max().item()


def test_how_far_each_head_hears():
    assert reach("linear") == reach("mlp") == (0, 0)
    assert reach("conv") == (-14, 14)
    assert reach("lstm") == (-20, 20)


def test_attention_with_equal_scores_is_the_mean_and_with_one_high_score_is_that_frame():
    head = built("attention-pool", False).eval()
    x_BFD, known_BF = batch([4, 7])
    with torch.no_grad():
        for parameter in head.score.parameters():
            parameter.zero_()
        mean_BD = torch.stack([x_BFD[0, :4].mean(0), x_BFD[1].mean(0)])
        torch.testing.assert_close(head(x_BFD, known_BF), head.layers(mean_BD))
        head.score = nn.Linear(WIDTH, 1, bias=False)
        head.score.weight.copy_(1e4 * torch.eye(WIDTH)[:1])
        loudest = torch.stack([x_BFD[0, x_BFD[0, :4, 0].argmax()], x_BFD[1, x_BFD[1, :, 0].argmax()]])
        torch.testing.assert_close(head(x_BFD, known_BF), head.layers(loudest))


def test_the_mean_is_over_an_examples_own_rows():
    x_BFD, known_BF = batch([4, 7])
    found = mean_of_known(x_BFD + 100 * ~known_BF[..., None], known_BF)
    np.testing.assert_allclose(found, [x_BFD[0, :4].mean(0), x_BFD[1].mean(0)], atol=1e-6)


def test_a_reader_adds_layers_by_a_softmax_and_gives_an_answer_a_row_or_an_example():
    torch.manual_seed(0)
    _, known_BF = batch([2, 5])
    x_LRD = torch.randn(3, 7, WIDTH)
    reader = Reader(REGISTRY.get("linear"), HeadShape(WIDTH, OUTPUTS), 3)
    share_L = reader.mix.detach().exp() / reader.mix.detach().exp().sum()
    summed_RD = sum(share * x_RD for share, x_RD in zip(share_L, x_LRD))
    outer = reader.head.outer
    torch.testing.assert_close(reader(x_LRD, known_BF), F.linear(summed_RD, outer.weight, outer.bias))
    alone = Reader(REGISTRY.get("lstm"), HeadShape(WIDTH, OUTPUTS, 8, each_row=False), 1).eval()
    assert alone.mix is None and alone(x_LRD[:1], known_BF).shape == (2, OUTPUTS)
