"""EfficientNet against Hugging Face's, map by map, and its padding, sizes, gradients and starting weights."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import EfficientNetConfig, EfficientNetModel

from carrara.nn.conv.efficientnet import EfficientNet, scale_channels


def log_mel(frames, bands=96, clips=2, seed=0):
    return 4 * torch.rand(clips, frames, bands, generator=torch.Generator().manual_seed(seed))


def stir(module, seed=3):
    """Give every norm statistics of its own, and every bias, so that none of them could be left out unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor, low, high in (
                (part.weight, 1.0, 2.0),
                (part.bias, -0.5, 0.5),
                (part.running_mean, -0.1, 0.1),
                (part.running_var, 0.5, 1.5),
            ):
                tensor.data.uniform_(low, high, generator=generator)
        elif isinstance(part, nn.Conv2d):
            part.weight.data.normal_(0, (part.weight[0].numel()) ** -0.5, generator=generator)
            if part.bias is not None:
                part.bias.data.uniform_(0.0, 1.0, generator=generator)
    return module


def twin(width=0.5):
    """Hugging Face's model and ours with its weights, which both list in the order in which they are used."""
    config = EfficientNetConfig(
        num_channels=1, width_coefficient=width, depth_coefficient=1.0, hidden_dim=scale_channels(1280, width)
    )
    theirs = stir(EfficientNetModel(config)).eval()
    ours = EfficientNet(width).eval()
    for kind in (nn.Conv2d, nn.BatchNorm2d):
        pairs = zip(*([part for part in model.modules() if isinstance(part, kind)] for model in (ours, theirs)))
        for mine, other in pairs:
            mine.load_state_dict(other.state_dict())
    return ours, theirs


@torch.no_grad()
@pytest.mark.parametrize("frames", [128, 64])
def test_every_map_equals_hugging_face(frames):
    ours, theirs = twin()
    mel_BFM = log_mel(frames)
    expected = theirs(mel_BFM[:, None], output_hidden_states=True)
    map_BCFM = ours.stem(mel_BFM[:, None])
    for block, hidden in zip(ours.blocks, expected.hidden_states[1:], strict=True):
        map_BCFM = block(map_BCFM)
        torch.testing.assert_close(map_BCFM, hidden, atol=1e-4, rtol=1e-4)
    features, pooled = ours(mel_BFM)
    assert features.std() > 0.01
    torch.testing.assert_close(features, expected.last_hidden_state, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(pooled, expected.last_hidden_state.mean(dim=(2, 3)), atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("size", [(128, 96), (127, 95), (5, 7), (1, 1)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_strides_pad_as_the_two_rules_say(kernel, size, symmetric):
    """TensorFlow: as many zeros as half the outputs, rounded up, need, the odd one behind; PyTorch: kernel // 2."""
    from carrara.nn.conv.efficientnet import ConvNormSilu

    part = ConvNormSilu(3, 4, kernel, stride=2).eval()
    map_BCFM = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    if symmetric:
        expected = functional.conv2d(map_BCFM, part.conv.weight, stride=2, padding=kernel // 2)
    else:
        pads = []
        for length in reversed(size):
            total = max((-(-length // 2) - 1) * 2 + kernel - length, 0)
            pads += [total // 2, total - total // 2]
        expected = functional.conv2d(functional.pad(map_BCFM, pads), part.conv.weight, stride=2)
    # A fresh norm divides by the root of 1 + epsilon.
    expected = functional.silu(expected / (1 + 1e-3) ** 0.5)
    torch.testing.assert_close(part(map_BCFM, symmetric), expected)


@torch.no_grad()
def test_the_padding_rule_is_stored_with_the_weights_and_changes_features():
    same, symmetric = twin()[0], EfficientNet(0.5).eval()
    symmetric.load_state_dict(same.state_dict() | {"symmetric": torch.tensor(True)})
    assert not torch.allclose(same(log_mel(128))[1], symmetric(log_mel(128))[1], atol=1e-2)


def test_b0_has_the_published_size():
    with torch.device("meta"):
        network, head = EfficientNet(), nn.Linear(1280, 400)
        features, pooled = network.stem(torch.empty(1, 1, 128, 96)), []
        for block in network.blocks:
            features = block(features)
            pooled.append(tuple(features.shape[1:]))
    assert sum(part.numel() for part in (*network.parameters(), *head.parameters())) == 4_519_372
    stages = [pooled[last] for last in (0, 2, 4, 7, 10, 14, 15)]
    assert stages == [(16, 64, 48), (24, 32, 24), (40, 16, 12), (80, 8, 6), (112, 8, 6), (192, 4, 3), (320, 4, 3)]


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 31, 625, 1875])
def test_any_length_is_encoded(frames):
    features, pooled = EfficientNet(0.1).eval()(log_mel(frames, clips=1))
    assert features.shape == (1, 128, -(-frames // 32), 3)
    assert pooled.shape == (1, 128)
    assert torch.isfinite(features).all()


def test_training_lowers_the_loss_and_every_weight_gets_a_gradient():
    network, head = EfficientNet(0.1), nn.Linear(128, 2)
    network.init_weights(torch.Generator().manual_seed(0))
    mel_BFM, answers = log_mel(64, clips=8), torch.arange(8) % 2
    mel_BFM[answers == 1, :, :20] += 1.0
    parameters = [*network.parameters(), *head.parameters()]
    descent, losses = torch.optim.Adam(parameters, 3e-3), []
    for _ in range(15):
        loss = functional.cross_entropy(head(network(mel_BFM)[1]), answers)
        descent.zero_grad()
        loss.backward()
        descent.step()
        losses.append(loss.item())
    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in parameters)
    assert losses[-1] < losses[0] / 2


@torch.no_grad()
def test_initial_weights_come_from_the_generator_and_keep_features_finite_in_half_precision():
    networks = [EfficientNet() for _ in range(3)]
    for network, seed in zip(networks, (0, 0, 1)):
        network.init_weights(torch.Generator().manual_seed(seed))
    first, again, other = (network.eval()(log_mel(128))[1] for network in networks)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert 1e-3 < first.std() < 1e3
