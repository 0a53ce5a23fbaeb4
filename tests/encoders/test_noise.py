"""Noise: the same clip has the same features, and a clip with any change has unrelated ones."""

import torch

from carrara.encoders.noise import ENCODER


def encoder():
    card, settings = ENCODER.variants["noise"]
    return ENCODER.build(settings, card, 0)


def clips(count, samples):
    return torch.randn(count, samples, generator=torch.Generator().manual_seed(2))


def correlation(one, other):
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])


def test_fifty_frames_a_second_of_standard_gaussian_numbers():
    network = encoder()
    layers = network(clips(2, 160_000))
    assert layers.shape == (2, 1, network.num_frames(160_000), 64) == (2, 1, 500, 64)
    assert abs(float(layers.mean())) < 0.02
    assert abs(float(layers.std()) - 1) < 0.02
    assert abs(correlation(layers[0, 0, 1:], layers[0, 0, :-1])) < 0.03


def test_a_change_of_one_sample_changes_every_feature():
    samples = clips(1, 32_000)
    other = samples.clone()
    other[0, 100] += 1e-6
    first = encoder()(samples)
    assert torch.equal(first, encoder()(samples.clone()))
    assert abs(correlation(first, encoder()(other))) < 0.05


def test_it_draws_from_no_global_generator():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = encoder()(clips(1, 16_000))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(encoder()(clips(1, 16_000)), first)


def test_padding_in_a_batch_changes_nothing():
    network, samples = encoder(), clips(2, 16_000)
    together = network(samples, torch.tensor([5000, 16_000]))
    assert torch.equal(together[0, :, :15], network(samples[:1, :5000])[0])
    assert not together[0, :, 15:].any()
    assert torch.equal(together[1], network(samples[1:])[0])


def test_one_sample_is_one_frame():
    assert encoder()(torch.ones(1, 1)).shape == (1, 1, 1, 64)
    assert encoder().card.frame_rate == 50.0
