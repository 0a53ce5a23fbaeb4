"""The conformer against transformers' wav2vec2-conformer, its front end against convolutions written out here."""

import pytest
import torch
from transformers import Wav2Vec2ConformerConfig
from transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer import Wav2Vec2ConformerEncoder

from carrara.nn.conv.subsampling import ConvSubsampling, num_subsampled_frames
from carrara.nn.transformer.conformer import Conformer, ConformerShape, apply_rotary, rotary_cos_sin

SHAPE = ConformerShape(num_layers=3, dim=32, num_heads=2, ffn_dim=48, kernel=7)


def spread(module, seed=0, scale=0.3):
    """Move every weight and batch-norm statistic well away from where it starts, so that each one matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point() and "inv_freq" not in name:
                noise = scale * torch.randn(tensor.shape, generator=generator)
                tensor.copy_(noise.abs() + 0.5 if name.endswith("running_var") else tensor + noise)
    return module.eval()


@pytest.fixture(scope="module")
def theirs():
    config = Wav2Vec2ConformerConfig(
        hidden_size=SHAPE.dim,
        num_hidden_layers=SHAPE.num_layers,
        num_attention_heads=SHAPE.num_heads,
        intermediate_size=SHAPE.ffn_dim,
        conv_depthwise_kernel_size=SHAPE.kernel,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        hidden_act="swish",
        position_embeddings_type="rotary",
    )
    return spread(Wav2Vec2ConformerEncoder(config))


@pytest.fixture(scope="module")
def ours(theirs):
    conformer = Conformer(SHAPE)
    kept = {name: tensor for name, tensor in theirs.state_dict().items() if "pos" not in name}
    conformer.load_state_dict(kept, strict=True)
    return conformer.eval()


def frames(count, batch=2, width=SHAPE.dim, seed=1):
    return torch.randn(batch, count, width, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def test_every_layer_is_that_of_transformers(theirs, ours):
    seen = []
    hooks = [layer.register_forward_hook(lambda module, given, out: seen.append(out)) for layer in theirs.layers]
    x_BFD = frames(60)
    last = theirs(x_BFD.clone()).last_hidden_state
    for hook in hooks:
        hook.remove()
    rows = ours(x_BFD)
    assert len(rows) == SHAPE.num_layers + 1 and len(seen) == SHAPE.num_layers
    torch.testing.assert_close(rows[0], x_BFD)
    for mine, other in zip(rows[1:-1], seen[:-1]):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(rows[-1], last, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(rows[-1], seen[-1], atol=0.1), "the last row is after the stack's norm"


@torch.inference_mode()
def test_a_padded_clip_has_the_same_features_as_alone(ours):
    counts = (9, 30, 1)
    x_BFD = 5 + frames(30, batch=3)
    valid_BF = torch.arange(30) < torch.tensor(counts)[:, None]
    together = ours(x_BFD, valid_BF)
    for clip, count in enumerate(counts):
        for row, alone in zip(together, ours(x_BFD[clip : clip + 1, :count])):
            torch.testing.assert_close(row[clip, :count], alone[0], atol=1e-5, rtol=1e-5)


def test_rotations_are_multiplications_by_unit_complex_numbers():
    features, count = 8, 50
    x_BFHE = torch.randn(2, count, 3, features, dtype=torch.float64)
    speeds = torch.tensor([10_000.0 ** (-2 * pair / features) for pair in range(features // 2)], dtype=torch.float64)
    angles = torch.arange(count, dtype=torch.float64)[:, None] * speeds
    turned = torch.complex(x_BFHE[..., :4], x_BFHE[..., 4:]) * torch.polar(torch.ones_like(angles), angles)[:, None]
    expected = torch.cat([turned.real, turned.imag], -1)
    actual = apply_rotary(x_BFHE, rotary_cos_sin(count, features, torch.device("cpu")))
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def test_conformer_dropout_acts_in_training_only():
    conformer = Conformer(ConformerShape(num_layers=1, dim=8, num_heads=2, ffn_dim=8, kernel=3, dropout=0.5))
    conformer.init_weights(torch.Generator().manual_seed(0))
    x_BFD = frames(20, width=8)
    assert not torch.equal(conformer.train()(x_BFD)[-1], conformer(x_BFD)[-1])
    assert torch.equal(conformer.eval()(x_BFD)[-1], conformer(x_BFD)[-1])


def naive_convolution(x_BCMF, weight, bias, stride):
    batch, _, bands, count = x_BCMF.shape
    padded = torch.zeros(batch, weight.shape[1], bands + 2, count + 2, dtype=x_BCMF.dtype)
    padded[:, :, 1:-1, 1:-1] = x_BCMF
    out = torch.zeros(batch, len(weight), -(-bands // stride), -(-count // stride), dtype=x_BCMF.dtype)
    for row in range(out.shape[2]):
        for column in range(out.shape[3]):
            patch = padded[:, :, row * stride : row * stride + 3, column * stride : column * stride + 3]
            out[:, :, row, column] = (patch[:, None] * weight).sum((2, 3, 4)) + bias
    return out


def naive_norm(x_BCMF, norm):
    mean, variance, weight, bias = (
        tensor.double()[:, None, None] for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (x_BCMF - mean) / (variance + 1e-5).sqrt() * weight + bias


def naive_front(front, mel_BFM):
    """Return what two residual blocks and the linear map give, in double precision."""
    x = mel_BFM.double().transpose(1, 2)[:, None]
    for block in front.conv:
        first, second, beside = (
            (conv.weight.double(), conv.bias.double()) for conv in (block.conv1, block.conv2, block.conv3)
        )
        hidden = naive_norm(naive_convolution(x, *first, 2), block.bn1).clamp(min=0)
        deep = naive_norm(naive_convolution(hidden, *second, 1), block.bn2)
        x = (deep + naive_norm(naive_convolution(x, *beside, 2), block.bn3)).clamp(min=0)
    stacked = torch.stack([x[..., frame].reshape(len(x), -1) for frame in range(x.shape[-1])], 1)
    return stacked @ front.linear.weight.double().T + front.linear.bias.double()


@pytest.fixture(scope="module")
def front():
    return spread(ConvSubsampling(bands=8, channels=3, dim=6), seed=2)


@pytest.mark.parametrize("count", [1, 4, 13, 30])
@torch.inference_mode()
def test_the_front_end_equals_a_chain_of_torch_layers(front, count):
    mel_BFM = frames(count, width=8)
    actual = front(mel_BFM)
    assert actual.shape[1] == num_subsampled_frames(count)
    torch.testing.assert_close(actual.double(), naive_front(front, mel_BFM), atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_padding_after_a_clip_does_not_reach_into_its_frames(front):
    counts = (5, 30, 1, 18)
    mel_BFM = frames(30, batch=4, width=8)
    for clip, count in enumerate(counts):
        mel_BFM[clip, count:] = 0
    together = front(mel_BFM, torch.tensor(counts))
    for clip, count in enumerate(counts):
        alone = naive_front(front, mel_BFM[clip : clip + 1, :count])[0]
        torch.testing.assert_close(together[clip, : num_subsampled_frames(count)].double(), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("counts", [None, (83, 30, 41)])
@torch.inference_mode()
def test_long_clips_in_blocks_equal_one_pass(front, counts, monkeypatch):
    mel_BFM = frames(83, batch=3, width=8)
    counts_B = None if counts is None else torch.tensor(counts)
    if counts is not None:
        mel_BFM = mel_BFM.masked_fill((torch.arange(83) >= counts_B[:, None])[..., None], 0)
    at_once = front(mel_BFM, counts_B)
    widest = []
    hook = front.conv[0].register_forward_hook(lambda module, given, out: widest.append(given[0].shape[-1]))
    monkeypatch.setattr(front, "block_frames", 16)
    in_blocks = front(mel_BFM, counts_B)
    hook.remove()
    assert len(widest) == 3 * 6 and max(widest) == 16 + 24
    own = slice(None) if counts is None else (torch.arange(21) < (counts_B[:, None] + 3) // 4)
    torch.testing.assert_close(in_blocks[own], at_once[own], atol=1e-5, rtol=1e-5)


def test_activation_checkpointing_counts_a_batch_once_in_the_running_statistics():
    states, gradients = [], []
    for recompute in (False, True):
        conformer = Conformer(SHAPE)
        conformer.init_weights(torch.Generator().manual_seed(0))
        conformer.train().activation_checkpointing = recompute
        for seed in (1, 2):
            conformer(frames(20, seed=seed))[-1].square().mean().backward()
        assert all(layer.conv_module.batch_norm.momentum == 0.1 for layer in conformer.layers)
        states.append(dict(conformer.named_buffers()))
        gradients.append({name: parameter.grad for name, parameter in conformer.named_parameters()})
    assert states[0]["layers.0.conv_module.batch_norm.num_batches_tracked"] == 2
    assert all(torch.equal(states[1][name], buffer) for name, buffer in states[0].items())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)
