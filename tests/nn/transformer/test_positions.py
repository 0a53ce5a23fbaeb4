"""Positional convolutions equal plain loops, and padding changes no frame of a clip."""

import pytest
import torch

from carrara.nn.transformer.positions import Data2vecPositions, HubertPositions

WIDTH, GROUPS = 16, 4


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def made(kind, kernel):
    module = (
        HubertPositions(WIDTH, kernel, GROUPS)
        if kind == "hubert"
        else Data2vecPositions(WIDTH, kernel, GROUPS, depth=3)
    )
    module.init_weights(generator(1))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator(2)))
    return module


@pytest.mark.parametrize("kernel", [7, 8])
def test_the_effective_kernel_has_one_gain_per_tap(kernel):
    module, x = made("hubert", kernel), torch.randn(2, 20, WIDTH, generator=generator())
    gain = module.conv.parametrizations.weight.original0
    direction = module.conv.parametrizations.weight.original1
    assert gain.shape == (1, 1, kernel)
    weight = torch.stack([gain[0, 0, k] * direction[:, :, k] / direction[:, :, k].norm() for k in range(kernel)], 2)
    padded = torch.nn.functional.pad(x.transpose(1, 2), (kernel // 2, kernel // 2))
    expected = torch.nn.functional.conv1d(padded, weight, module.conv.bias, groups=GROUPS)[..., :20]
    torch.testing.assert_close(module(x), torch.nn.functional.gelu(expected).transpose(1, 2), atol=1e-5, rtol=1e-5)


def test_the_effective_kernel_does_not_depend_on_the_number_of_threads():
    """PyTorch sums the squares in one part a thread; without gradients they are summed in double precision."""
    module = HubertPositions(128, 128, 4)
    module.init_weights(generator(1))
    kernels = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        with torch.inference_mode():
            kernels.append(module.conv.weight)
    assert all(torch.equal(kernel, kernels[0]) for kernel in kernels[1:])
    torch.testing.assert_close(module.conv.weight.detach(), kernels[0].clone(), atol=0, rtol=1e-5)


def test_the_first_gains_are_the_norms_of_the_drawn_kernel():
    module = HubertPositions(64, 32, 16)
    module.init_weights(generator())
    assert module.conv.weight.std().item() == pytest.approx((4 / (32 * 64)) ** 0.5, rel=0.02)
    torch.testing.assert_close(module.conv.weight, module.conv.parametrizations.weight.original1)


@pytest.mark.parametrize("kernel", [5, 6])
@pytest.mark.parametrize("kind", ["hubert", "data2vec"])
def test_padding_does_not_change_positions_of_a_clip(kind, kernel):
    module, x = made(kind, kernel), torch.randn(2, 12, WIDTH, generator=generator())
    valid = torch.arange(12) < torch.tensor([[12], [7]])
    together = module(x, valid)
    torch.testing.assert_close(together[1, :7], module(x[1:, :7])[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together[0], module(x[:1])[0], atol=1e-5, rtol=1e-5)


def test_the_published_data2vec_chain_leaks():
    module, x = made("data2vec", 5), torch.randn(1, 12, WIDTH, generator=generator())
    x[:, 7:] = 0
    assert (module(x)[0, :7] - module(x[:, :7])[0]).abs().max() > 1e-2


def test_data2vec_blocks_norm_each_frame():
    module = made("data2vec", 5)
    x = torch.randn(1, 9, WIDTH, generator=generator())
    expected = x.transpose(1, 2)
    for layer in module.layers:
        expected = torch.nn.functional.conv1d(expected, layer.conv.weight, layer.conv.bias, padding=2, groups=GROUPS)
        centred = expected - expected.mean(1, keepdim=True)
        expected = torch.nn.functional.gelu(centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt())
    torch.testing.assert_close(module(x), expected.transpose(1, 2), atol=1e-5, rtol=1e-5)
