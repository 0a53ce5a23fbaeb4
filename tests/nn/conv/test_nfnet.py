"""The NFNet blocks and the slow and fast paths against a plain numpy network written from the papers and the spec."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import integrate, special, stats

from carrara.nn.conv import slow_fast
from carrara.nn.conv.nfnet import NfnetBlock, StandardizedConv, init_nfnet_weights, scaled_gelu
from carrara.nn.conv.slow_fast import SlowFast, SlowFastSettings

TINY = SlowFastSettings(
    blocks=(1, 2, 2),
    slow_stem=(4, 4, 8, 16),
    fast_stem=(2, 2, 4, 8),
    slow_channels=(16, 32, 64),
    fast_channels=(8, 16, 24),
    slow_group=8,
    fast_group=4,
    lateral_channels=(8, 8, 16),
    lateral_outputs=(8, 16, 32),
)


def randomised(module, seed=0):
    """A module whose every weight is random, gains of blocks too, in double precision."""
    module.double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) + (parameter.dim() == 1))
    return module


def gelu(x):
    return 1.7015043497 * x * 0.5 * (1 + special.erf(x / np.sqrt(2)))


def same(size, kernel, stride):
    """TensorFlow's SAME, as its documentation of convolutions has it."""
    total = max(kernel - (size % stride or stride), 0)
    return total // 2, total - total // 2


class Naive:
    """The network on `[N, H, W, C]` arrays with the weights of ours."""

    def __init__(self, module):
        self.weights = {name: value.numpy() for name, value in module.state_dict().items()}

    def conv(self, name, x, stride=(1, 1), groups=1):
        kernel = self.weights[f"{name}.weight"].transpose(2, 3, 1, 0)
        mean, variance = kernel.mean((0, 1, 2)), kernel.var((0, 1, 2))
        fan_in = np.prod(kernel.shape[:3])
        kernel = (kernel - mean) * self.weights[f"{name}.gain"] / np.sqrt(np.maximum(variance * fan_in, 1e-4))
        height, width = kernel.shape[:2]
        x = np.pad(x, [(0, 0), same(x.shape[1], height, stride[0]), same(x.shape[2], width, stride[1]), (0, 0)])
        rows, columns = (x.shape[1] - height) // stride[0] + 1, (x.shape[2] - width) // stride[1] + 1
        parts = []
        for part, of_part in zip(np.split(x, groups, axis=3), np.split(kernel, groups, axis=3)):
            out = 0
            for row in range(height):
                for column in range(width):
                    seen = part[:, row :: stride[0], column :: stride[1]][:, :rows, :columns]
                    out = out + seen @ of_part[row, column]
            parts.append(out)
        return np.concatenate(parts, axis=3) + self.weights[f"{name}.bias"]

    def dense(self, name, x):
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def block(self, name, x, group, beta, stride=1):
        active = gelu(x) * beta
        middle = len(self.weights[f"{name}.narrow.bias"])
        out = self.conv(f"{name}.narrow", active)
        out = self.conv(f"{name}.along_time", gelu(out), (stride, 1), middle // group)
        out = self.conv(f"{name}.along_frequency", gelu(out), (1, 1), middle // group)
        out = self.conv(f"{name}.widen", gelu(out))
        hidden = np.maximum(self.dense(f"{name}.excitation.squeeze", out.mean((1, 2))), 0)
        factor = 2 * special.expit(self.dense(f"{name}.excitation.excite", hidden))
        out = 0.2 * self.weights[f"{name}.gain"] * factor[:, None, None] * out
        if f"{name}.shortcut.weight" not in self.weights:
            return out + x
        pooled = [active[:, row : row + stride].mean(axis=1) for row in range(0, x.shape[1], stride)]
        return out + self.conv(f"{name}.shortcut", np.stack(pooled, axis=1))

    def stem(self, name, x, strides):
        for number, stride in enumerate(strides):
            x = self.conv(f"{name}.{number}", gelu(x) if number else x, stride)
        return x

    def network(self, x, settings):
        slow = self.stem("slow_stem", x, [(2, 8), (1, 1), (1, 1), (2, 2)])
        fast = self.stem("fast_stem", x, [(2, 2), (1, 1), (1, 1), (2, 2)])
        maps = [(slow, fast)]
        for stage, count in enumerate(settings.blocks):
            lateral = self.conv(f"laterals.{stage}.0", fast, (1, 4))
            slow = np.concatenate([slow, self.conv(f"laterals.{stage}.1", lateral)], axis=3)
            beta = 1 / np.sqrt(1.04) if stage else 1.0
            for block in range(count):
                stride = 2 if stage and not block else 1
                slow = self.block(f"slow_stages.{stage}.{block}", slow, settings.slow_group, beta, stride)
                fast = self.block(f"fast_stages.{stage}.{block}", fast, settings.fast_group, beta, stride)
                beta = 1 / np.sqrt(beta**-2 + 0.04)
            maps.append((slow, fast))
        return maps, gelu(np.concatenate([slow.mean((1, 2)), fast.mean((1, 2))], axis=1))


@pytest.fixture
def maps():
    return np.random.default_rng(0).standard_normal


@pytest.mark.parametrize("shape", [(96, 300), (41, 53)])
def test_every_map_and_the_features_are_those_of_the_plain_network(maps, shape):
    network = randomised(SlowFast(TINY))
    slices = maps((2, *shape))
    expected_maps, expected = Naive(network).network(slices[..., None], TINY)
    with torch.no_grad():
        ours_maps, ours = network.feature_maps(torch.from_numpy(slices)), network(torch.from_numpy(slices))
    assert len(ours_maps) == len(expected_maps) == 4
    for ours_pair, pair in zip(ours_maps, expected_maps):
        for our, their in zip(ours_pair, pair):
            np.testing.assert_allclose(
                our.permute(0, 2, 3, 1).numpy(), their, rtol=1e-9, atol=1e-9 * np.abs(their).max()
            )
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (1, 7), (2, 4)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (2, 8), (1, 4)])
@pytest.mark.parametrize("shape", [(8, 16), (7, 9), (1, 1)])
def test_padding_is_that_of_tensorflow(maps, kernel, stride, shape):
    convolution = randomised(torch.nn.ModuleDict({"c": StandardizedConv(4, 6, kernel, stride, groups=2)}))
    x = maps((2, *shape, 4))
    ours = convolution["c"](torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    assert ours.shape[1:3] == (-(-shape[0] // stride[0]), -(-shape[1] // stride[1]))
    np.testing.assert_allclose(ours.detach().numpy(), Naive(convolution).conv("c", x, stride, 2), atol=1e-12)


def test_padding_is_after_the_map_where_it_is_odd():
    convolution = StandardizedConv(1, 1, (1, 3), (1, 2)).double()
    with torch.no_grad():
        convolution.weight.copy_(torch.tensor([-1.0, 0.0, 1.0]).view(1, 1, 1, 3))
        convolution.gain.fill_(2**0.5)
        convolution.bias.zero_()
    # Differences of neighbours two apart from the first sample on, the last one to the zero after the map.
    ours = convolution(torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0]).double().view(1, 1, 1, 6))
    assert ours.flatten().tolist() == pytest.approx([3.0, 12.0, -16.0])


def test_standardised_kernels_have_mean_0_and_the_gain_as_norm():
    convolution = randomised(StandardizedConv(6, 4, (3, 3)))
    kernels = convolution.standardized_weight().detach()
    torch.testing.assert_close(kernels.mean((1, 2, 3)), torch.zeros(4).double())
    torch.testing.assert_close(kernels.flatten(1).norm(dim=1), convolution.gain.detach().abs())
    assert (
        (kernels.flatten(1) @ convolution.weight.detach().flatten(1).T).diagonal().sign().equal(convolution.gain.sign())
    )


def test_nearly_constant_kernels_are_not_amplified():
    convolution = randomised(StandardizedConv(1, 1, (2, 2)))
    with torch.no_grad():
        convolution.weight.copy_(torch.tensor([5.0, 5.0, 5.0, 5.0004], dtype=torch.float64).view(1, 1, 2, 2))
        convolution.gain.fill_(1.0)
    expected = torch.tensor([-0.01, -0.01, -0.01, 0.03], dtype=torch.float64)
    torch.testing.assert_close(convolution.standardized_weight().flatten(), expected, atol=1e-12, rtol=1e-9)


def test_scaled_gelu_keeps_the_variance_of_normal_numbers():
    def moment(power):
        return integrate.quad(
            lambda x: scaled_gelu(torch.tensor(x).double()).item() ** power * stats.norm.pdf(x), -9, 9
        )[0]

    # The published factor was found by sampling.
    assert moment(2) - moment(1) ** 2 == pytest.approx(1.0, abs=1e-3)


def test_expected_variances_restart_with_each_stage():
    network = SlowFast(TINY)
    for stages in (network.slow_stages, network.fast_stages):
        variances = [[block.expected_std**2 for block in stage] for stage in stages]
        assert variances == [pytest.approx([1.0]), pytest.approx([1.04, 1.08]), pytest.approx([1.04, 1.08])]


def test_an_initialized_block_equals_its_shortcut(maps):
    block = NfnetBlock(16, 16, 8, 1.0)
    init_nfnet_weights(block, torch.Generator().manual_seed(0))
    x = torch.from_numpy(maps((1, 16, 4, 5))).float()
    assert torch.equal(block(x), x)


def test_a_seed_gives_the_same_weights_again():
    def weights(seed):
        network = SlowFast(TINY)
        init_nfnet_weights(network, torch.Generator().manual_seed(seed))
        return torch.nn.utils.parameters_to_vector(network.parameters())

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
    assert torch.isfinite(weights(1)).all()


@pytest.mark.slow
def test_f0_has_the_published_size_and_maps():
    with torch.device("meta"):
        network = SlowFast(SlowFastSettings())
    assert sum(parameter.numel() for parameter in network.parameters()) == 62_345_742
    maps = network.feature_maps(torch.empty(2, 96, 300, device="meta"))
    slow, fast = ([tuple(pair[path].shape[1:]) for pair in maps] for path in (0, 1))
    assert slow == [(128, 24, 19), (256, 24, 19), (512, 12, 19), (1536, 6, 19), (1536, 3, 19)]
    assert fast == [(16, 24, 75), (32, 24, 75), (64, 12, 75), (192, 6, 75), (192, 3, 75)]
    fused = [stage[0].narrow.weight.shape[1] for stage in network.slow_stages]
    assert fused == [256, 512, 1024, 4608]
    assert network(torch.empty(2, 96, 300, device="meta")).shape == (2, 1728)


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"blocks": (1, 2)}, "for each stage"),
        ({"blocks": (1, 0, 2)}, "at least 1"),
        ({"slow_group": 12}, "twice its group"),
        ({"fast_channels": (8, 12, 24)}, "twice its group"),
        ({"fast_group": 0}, "twice its group"),
        ({"lateral_outputs": ()}, "for each stage"),
    ],
)
def test_sizes_that_do_not_fit_together_are_refused(change, complaint):
    with pytest.raises(ValidationError, match=complaint):
        slow_fast.SlowFastSettings(**{**TINY.model_dump(), **change})
