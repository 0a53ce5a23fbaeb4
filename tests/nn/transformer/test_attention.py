"""Attention: relaxation is the softmax and widens float16's range by c; eager and fused agree."""

import pytest
import torch

from carrara.nn.transformer.attention import MultiHeadAttention, attention_weights

C = 32.0


def queries_and_keys(scale=1.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, 3, 40, 16, generator=generator) * scale for _ in range(2))
    return q.to(dtype), k.to(dtype)


@pytest.mark.parametrize("scale", [0.1, 1, 10])
def test_relaxation_is_the_softmax_bit_for_bit_in_float32(scale):
    q, k = queries_and_keys(scale)
    plain = torch.softmax((q * 16**-0.5) @ k.transpose(2, 3), -1)
    assert torch.equal(attention_weights(q, k, relaxation=C), plain)
    assert torch.equal(attention_weights(q, k), plain)


def test_relaxation_keeps_half_precision_finite_where_plain_logits_overflow():
    q, k = queries_and_keys(170.0)
    exact = attention_weights(q.double(), k.double())
    logits = (q @ k.transpose(2, 3)) / 4
    assert 6.6e4 < logits.abs().max() < 2e6
    halves = q.half(), k.half()
    assert attention_weights(*halves).isnan().any()
    after_the_product = (halves[0] / 4) @ halves[1].transpose(2, 3) / C
    assert ((after_the_product - after_the_product.amax(-1, keepdim=True)) * C).softmax(-1).isnan().any()
    relaxed = attention_weights(*halves, relaxation=C)
    assert not relaxed.isnan().any()
    torch.testing.assert_close(relaxed.sum(-1).float(), torch.ones(2, 3, 40), atol=1e-2, rtol=0)
    agree = relaxed.argmax(-1) == exact.argmax(-1)
    assert agree.float().mean() > 0.95


def test_gradients_are_those_of_the_softmax():
    grads = []
    for relaxation in (None, C):
        q, k = (t.double().requires_grad_() for t in queries_and_keys())
        attention_weights(q, k, relaxation=relaxation).square().sum().backward()
        grads.append((q.grad, k.grad))
    for plain, relaxed in zip(*grads):
        torch.testing.assert_close(relaxed, plain, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("relaxation", [None, C])
def test_eager_equals_fused_and_torch(masked, relaxation):
    x = torch.randn(2, 11, 32, generator=torch.Generator().manual_seed(1))
    valid = torch.arange(11) < torch.tensor([[11], [6]]) if masked else None
    fused = MultiHeadAttention(32, 4, 0.0)
    eager = MultiHeadAttention(32, 4, 0.0, "eager", relaxation)
    eager.load_state_dict(fused.state_dict())
    torch.testing.assert_close(eager(x, valid), fused(x, valid), atol=1e-5, rtol=1e-5)
    reference = torch.nn.MultiheadAttention(32, 4, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([p.weight for p in (fused.q_proj, fused.k_proj, fused.v_proj)]))
        reference.in_proj_bias.copy_(torch.cat([p.bias for p in (fused.q_proj, fused.k_proj, fused.v_proj)]))
        reference.out_proj.load_state_dict(fused.out_proj.state_dict())
    expected, _ = reference(x, x, x, key_padding_mask=None if valid is None else ~valid)
    torch.testing.assert_close(fused(x, valid), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["sdpa", "eager"])
def test_dropout_acts_in_training_only(mode):
    x = torch.randn(1, 20, 32, generator=torch.Generator().manual_seed(1))
    module = MultiHeadAttention(32, 4, 0.5, mode)
    assert not torch.equal(module(x), module(x))
    module.eval()
    assert torch.equal(module(x), module(x))
