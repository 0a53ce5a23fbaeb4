"""The stack's hand-written backward pass and its Adam against autograd and torch.optim.Adam."""

from __future__ import annotations

import torch
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector

from carrara.bench.probes.probe import ProbeShape, ProbeSpec, initial_probe
from carrara.bench.probes.stack import Batch, ProbeStack, logits

KINDS = [(mixed, hidden) for hidden in (11, 0) for mixed in (0, 4)]


def made(mixed, hidden):
    shape = ProbeShape(width=7, hidden=hidden, outputs=3, dropout=0.3 if hidden else 0.0, mixed=mixed)
    sources = tuple("abcd"[: mixed or 1])
    specs = [ProbeSpec("x", sources, rate) for rate in (1e-3, 1e-2, 3e-1)]
    return shape, specs, ProbeStack(specs, shape, torch.device("cpu"))


def mean_square(logits_PBK, targets_B):
    return (logits_PBK - targets_B).square().mean((1, 2))


def test_many_steps_equal_autograd_and_torch_adam():
    for mixed, hidden in KINDS:
        shape, specs, stack = made(mixed, hidden)
        probes = [initial_probe(spec, shape) for spec in specs]
        adams = [torch.optim.Adam(probe.parameters(), lr=spec.learning_rate) for probe, spec in zip(probes, specs)]
        draw = torch.Generator().manual_seed(0)
        for _ in range(25):
            heard = torch.randn(*([mixed] if mixed else []), 9, 7, generator=draw)
            target_BK = torch.randn(9, 3, generator=draw)
            kept_BH = torch.rand(9, hidden, generator=draw) >= 0.3
            for low, high in ((0, 5), (5, 9)):
                part = slice(low, high)
                batch = Batch(
                    low, high, (high - low) / 9, low == 0, high == 9, target_BK[part], kept_BH[part].float() / 0.7
                )
                x = heard[:, part] if mixed else heard[part].expand(3, -1, -1)
                stack.accumulate(slice(0, 3), x, batch, mean_square)
            stack.step(slice(0, 3))
            for probe, adam in zip(probes, adams):
                adam.zero_grad()
                F.mse_loss(probe(heard, kept_BH), target_BK).backward()
                adam.step()
        expected_PN = torch.stack([parameters_to_vector(probe.parameters()) for probe in probes])
        torch.testing.assert_close(stack.value_PN, expected_PN.detach(), atol=1e-5, rtol=1e-4)


def test_evaluation_equals_the_module():
    for mixed, hidden in KINDS:
        shape, specs, stack = made(mixed, hidden)
        heard = torch.randn(*([mixed] if mixed else []), 5, 7, generator=torch.Generator().manual_seed(1))
        found = logits(stack.value_PN, shape, heard if mixed else heard.expand(3, -1, -1))
        with torch.no_grad():
            expected = torch.stack([initial_probe(spec, shape)(heard) for spec in specs])
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_initial_weights_have_the_spread_of_a_linear_layer_and_differ_between_points():
    shape = ProbeShape(width=400, hidden=300, outputs=5, dropout=0.2)
    one, other = (initial_probe(ProbeSpec("1", ("1",), rate), shape) for rate in (1e-3, 1e-2))
    reference = torch.nn.Linear(400, 300)
    assert torch.isclose(one.inner_weight.std(), reference.weight.std(), rtol=0.02)
    assert one.inner_weight.abs().max() <= reference.weight.abs().max() * 1.01
    assert not torch.equal(one.inner_weight, other.inner_weight)
    again = initial_probe(ProbeSpec("1", ("1",), 1e-3), shape)
    assert torch.equal(one.inner_weight, again.inner_weight)
