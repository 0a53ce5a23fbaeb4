"""The stack's hand-written backward pass and its Adam against autograd and torch.optim.Adam."""

from __future__ import annotations

import torch
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector

from carrara.bench.probes.examples import ProbeMicroBatch
from carrara.bench.probes.probe import ProbeShape, ProbeSpec, initial_probe
from carrara.bench.probes.stack import ProbeStack, stack_logits

KINDS = [(num_summed, hidden) for hidden in (11, 0) for num_summed in (0, 4)]


def build(num_summed, hidden):
    shape = ProbeShape(dim=7, hidden=hidden, outputs=3, dropout=0.3 if hidden else 0.0, num_summed=num_summed)
    sources = tuple("abcd"[: num_summed or 1])
    specs = [ProbeSpec("x", sources, rate) for rate in (1e-3, 1e-2, 3e-1)]
    return shape, specs, ProbeStack(specs, shape, torch.device("cpu"))


def mean_square(logits_PBK, targets_B):
    return (logits_PBK - targets_B).square().mean((1, 2))


def test_many_steps_equal_autograd_and_torch_adam():
    for num_summed, hidden in KINDS:
        shape, specs, stack = build(num_summed, hidden)
        probes = [initial_probe(spec, shape) for spec in specs]
        adams = [torch.optim.Adam(probe.parameters(), lr=spec.learning_rate) for probe, spec in zip(probes, specs)]
        rng = torch.Generator().manual_seed(0)
        for _ in range(25):
            x_all = torch.randn(*([num_summed] if num_summed else []), 9, 7, generator=rng)
            target_BK = torch.randn(9, 3, generator=rng)
            mask_BH = torch.rand(9, hidden, generator=rng) >= 0.3
            for low, high in ((0, 5), (5, 9)):
                part = slice(low, high)
                batch = ProbeMicroBatch(
                    low, high, (high - low) / 9, low == 0, high == 9, target_BK[part], mask_BH[part].float() / 0.7
                )
                x = x_all[:, part] if num_summed else x_all[part].expand(3, -1, -1)
                stack.backward(slice(0, 3), x, batch, mean_square)
            stack.step(slice(0, 3))
            for probe, adam in zip(probes, adams):
                adam.zero_grad()
                F.mse_loss(probe(x_all, mask_BH), target_BK).backward()
                adam.step()
        expected_PN = torch.stack([parameters_to_vector(probe.parameters()) for probe in probes])
        torch.testing.assert_close(stack.params_PN, expected_PN.detach(), atol=1e-5, rtol=1e-4)


def test_evaluation_equals_the_module():
    for num_summed, hidden in KINDS:
        shape, specs, stack = build(num_summed, hidden)
        x_all = torch.randn(*([num_summed] if num_summed else []), 5, 7, generator=torch.Generator().manual_seed(1))
        logits = stack_logits(stack.params_PN, shape, x_all if num_summed else x_all.expand(3, -1, -1))
        with torch.no_grad():
            expected = torch.stack([initial_probe(spec, shape)(x_all) for spec in specs])
        torch.testing.assert_close(logits, expected, atol=1e-6, rtol=1e-5)


def test_initial_weights_have_the_range_of_a_linear_layer_and_differ_between_points():
    shape = ProbeShape(dim=400, hidden=300, outputs=5, dropout=0.2)
    first, second = (initial_probe(ProbeSpec("1", ("1",), rate), shape) for rate in (1e-3, 1e-2))
    reference = torch.nn.Linear(400, 300)
    assert torch.isclose(first.inner_weight.std(), reference.weight.std(), rtol=0.02)
    assert first.inner_weight.abs().max() <= reference.weight.abs().max() * 1.01
    assert not torch.equal(first.inner_weight, second.inner_weight)
    again = initial_probe(ProbeSpec("1", ("1",), 1e-3), shape)
    assert torch.equal(first.inner_weight, again.inner_weight)
