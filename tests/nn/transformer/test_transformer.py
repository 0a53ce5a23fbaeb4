"""The stack: DeepNorm's constants and residuals, LayerDrop's rows, the last norm of pre-LN, initial weights."""

import dataclasses
import itertools

import pytest
import torch

from carrara.nn.transformer.encoder import Transformer, TransformerShape, deepnorm_constants
from carrara.nn.transformer.positions import HubertPositions

SHAPE = TransformerShape(num_layers=6, dim=32, num_heads=4, ffn_dim=64)


def stack(**changes):
    module = Transformer(dataclasses.replace(SHAPE, **changes), HubertPositions(32, 8, 4))
    module.init_weights(torch.Generator().manual_seed(0))
    return module


def frames(batch=2):
    return torch.randn(batch, 10, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("layers", "alpha", "beta"), [(12, 2.2134, 0.3195), (24, 2.6321, 0.2686)])
def test_deepnorm_constants(layers, alpha, beta):
    assert deepnorm_constants(layers) == pytest.approx((alpha, beta), abs=5e-5)


def test_deepnorm_scales_residuals_and_the_right_initial_weights():
    plain, deep = stack(), stack(deepnorm=True)
    beta = 48**-0.25
    for one, other in zip(plain.layers, deep.layers):
        for name in ("attention.q_proj", "attention.k_proj"):
            torch.testing.assert_close(other.get_submodule(name).weight, one.get_submodule(name).weight)
        for name in ("attention.v_proj", "attention.out_proj", "feed_forward.intermediate_dense"):
            torch.testing.assert_close(other.get_submodule(name).weight, one.get_submodule(name).weight * beta)
    layer, x = deep.eval().layers[0], frames()
    norm = torch.nn.functional.layer_norm
    y = norm(12**0.25 * x + layer.attention(x), (32,))
    torch.testing.assert_close(layer(x), norm(12**0.25 * y + layer.feed_forward(y), (32,)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("placement", ["post", "pre"])
def test_layerdrop_never_changes_the_number_of_outputs(placement):
    module = stack(layerdrop=0.5, norm_placement=placement, final_norm=False).train()
    kept = 0
    torch.manual_seed(0)
    for _ in range(50):
        rows = module(frames(1))
        assert len(rows) == 7
        kept += sum(not torch.equal(before, after) for before, after in itertools.pairwise(rows))
    assert 100 < kept < 200
    rows = module.eval()(frames(1))
    assert not any(torch.equal(before, after) for before, after in itertools.pairwise(rows))


def test_final_norm_normalises_the_last_output_of_a_pre_ln_stack():
    with_norm, without = stack(norm_placement="pre"), stack(norm_placement="pre", final_norm=False)
    with torch.no_grad():
        for module in (with_norm, without):
            module.layer_norm.weight.fill_(2)
    normed, raw = with_norm.eval()(frames()), without.eval()(frames())
    for one, other in zip(normed[:-1], raw[:-1]):
        assert torch.equal(one, other)
    torch.testing.assert_close(normed[-1], 2 * torch.nn.functional.layer_norm(raw[-1], (32,)), atol=1e-5, rtol=1e-5)


def test_output_0_is_the_input_to_layer_1():
    for placement in ("post", "pre"):
        module = stack(norm_placement=placement, final_norm=False).eval()
        rows = module(frames())
        assert torch.equal(module.layers[0](rows[0], None), rows[1])


@pytest.mark.parametrize("placement", ["post", "pre"])
def test_a_clip_among_longer_ones_has_the_same_outputs_as_alone(placement):
    module, x = stack(norm_placement=placement).eval(), frames()
    valid = torch.arange(10) < torch.tensor([[10], [4]])
    for together, alone in zip(module(x, valid), module(x[1:, :4])):
        torch.testing.assert_close(together[1, :4], alone[0], atol=1e-5, rtol=1e-5)


def test_linear_weights_start_as_berts():
    weights = torch.cat([m.weight.detach().flatten() for m in stack().modules() if isinstance(m, torch.nn.Linear)])
    assert weights.std().item() == pytest.approx(0.02, rel=0.02)
    assert abs(weights.mean()) < 5e-4
