"""The linear layer of encoding against NumPy in float64, and what must not go through oneDNN."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from carrara.core.errors import UsageError
from carrara.nn.linear import LARGEST_WEIGHT, OnednnLinear, gelu, is_cpu_inference, linear


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(0, 48), (1, 48), (7, 48), (2, 249, 48), (2, 0, 48), (3, 2, 5, 48)])
def test_products_equal_numpys(shape, bias):
    layer, x = OnednnLinear(48, 33, bias=bias), noise(*shape)
    expected = x.numpy().astype(np.float64) @ layer.weight.detach().numpy().T.astype(np.float64)
    expected = expected + (layer.bias.detach().numpy() if bias else 0)
    with torch.no_grad():
        np.testing.assert_allclose(layer(x).numpy(), expected, atol=2e-6, rtol=2e-6)
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, atol=2e-6, rtol=2e-6)


@torch.no_grad()
def test_tensors_need_not_be_contiguous():
    x, weight = noise(3, 48, 7).mT, noise(96, 10)[::2].T
    torch.testing.assert_close(linear(x, weight), x @ weight.T, atol=1e-5, rtol=1e-5)
    windows, weight = noise(50).unfold(0, 10, 5), noise(4, 10)
    torch.testing.assert_close(linear(windows, weight), windows @ weight.T, atol=1e-5, rtol=1e-5)


def test_gradients_flow_as_through_torchs_layer():
    layer, x = OnednnLinear(8, 4), noise(5, 8)
    layer(x).square().sum().backward()
    assert torch.equal(layer.weight.grad, 2 * layer(x).detach().T @ x)
    assert not is_cpu_inference(x)


@torch.no_grad()
def test_casts_other_types_devices_and_exports_are_left_to_torch():
    layer, x = OnednnLinear(8, 4), noise(5, 8)
    assert is_cpu_inference(x) and not is_cpu_inference(x.double()) and not is_cpu_inference(x.to("meta"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert layer.double()(x.double()).dtype == torch.float64
    program = torch.export.export(OnednnLinear(8, 4), (x,))
    assert not [node for node in program.graph.nodes if "mkldnn" in str(node.target)]


@torch.no_grad()
def test_its_operations_are_counted():
    with FlopCounterMode(display=False) as counter:
        OnednnLinear(8, 4)(noise(2, 5, 8))
    assert counter.get_total_flops() == 2 * 10 * 8 * 4


@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_int8_products_are_numpys_of_rounded_numbers(bias):
    layer, x = OnednnLinear(48, 33, bias=bias), noise(2, 5, 48)
    weight, offset = layer.weight.numpy(), layer.bias.numpy() if bias else 0
    layer.quantize()
    scale_O = np.abs(weight).max(1) / LARGEST_WEIGHT
    scale_N = np.abs(x.numpy()).max(-1, keepdims=True) / 127
    whole = np.round(x.numpy() / scale_N) @ np.round(weight / scale_O[:, None]).T
    np.testing.assert_allclose(layer(x).numpy(), whole * scale_N * scale_O + offset, atol=1e-5)
    exact = x.numpy() @ weight.T + offset
    assert np.linalg.norm(layer(x).numpy() - exact) < 0.03 * np.linalg.norm(exact)
    assert layer(x[:, :0]).shape == (2, 0, 33) and layer(0 * x).isfinite().all()


@torch.no_grad()
def test_int8_gives_a_vector_the_same_in_a_batch_as_alone():
    layer, x = OnednnLinear(48, 33), noise(7, 48) * torch.logspace(-3, 3, 7)[:, None]
    layer.quantize()
    for row, alone in zip(layer(x), x):
        assert torch.equal(row, layer(alone[None])[0])


def test_int8_is_refused_where_it_would_not_be_used():
    layer = OnednnLinear(48, 33)
    layer.quantize()
    with pytest.raises(UsageError, match="int8 is for encoding on a CPU"):
        layer(noise(2, 48))


@torch.no_grad()
def test_gelu_is_torchs_to_the_bit_in_the_memory_of_its_input():
    x = noise(7, 13)
    expected = torch.nn.functional.gelu(x)
    assert gelu(x) is x and torch.equal(x, expected)
    with torch.enable_grad():
        weight = noise(7, 13).requires_grad_()
        before = weight.detach().clone()
        gelu(weight).sum().backward()
    assert torch.equal(weight, before) and weight.grad is not None
