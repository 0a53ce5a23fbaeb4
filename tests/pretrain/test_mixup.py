"""Noise mixup: the set probability and volume, excerpts of the other clips, inputs unchanged."""

import numpy as np
import pytest
import torch

from carrara.pretrain.mixup import mix_crops
from carrara.pretrain.recipes._base import MixupSettings

RATE, LENGTH = 1000, 5000


def clips(count, seed=0):
    return torch.randn(count, LENGTH, generator=torch.Generator().manual_seed(seed))


def draws(count, epoch=0):
    return [(1, epoch, item) for item in range(count)]


@pytest.mark.parametrize("probability", [0.25, 0.75])
def test_a_clip_is_mixed_with_the_probability_itself(probability):
    settings, clean, changed = MixupSettings(probability=probability, pool=50), clips(100), 0
    for epoch in range(10):
        changed += int((mix_crops(clean, draws(100, epoch), settings, RATE) != clean).any(dim=1).sum())
    # Three standard deviations of a thousand throws.
    assert changed / 1000 == pytest.approx(probability, abs=3 * np.sqrt(probability * (1 - probability) / 1000))


def test_the_energy_added_is_that_of_the_excerpts():
    # Clips of white noise of power 1: one to three excerpts of 0.5 to 1 s in 5 s add 2 * 0.75 / 5 = 0.3 of it.
    settings = MixupSettings(probability=1.0, pool=64, volume=0.5)
    clean = clips(64)
    added = [(mix_crops(clean, draws(64, epoch), settings, RATE) - clean).square().mean().item() for epoch in range(20)]
    assert np.mean(added) == pytest.approx(0.25 * 0.3, rel=0.05)


def test_excerpts_are_those_of_the_other_clean_clips():
    settings = MixupSettings(probability=1.0, excerpts=1, pool=3)
    # Each clip counts upwards in its own range, so that every sample shows where it is from.
    clean = torch.arange(3 * LENGTH, dtype=torch.float64).reshape(3, LENGTH) + 1
    out = mix_crops(clean, draws(3), settings, RATE)
    for index in range(3):
        others = torch.cat([clean[:index], clean[index + 1 :]]).flatten()
        added = out[index] - clean[index]
        where = added.nonzero()[:, 0]
        excerpt = added[where[0] : where[-1] + 1]
        assert 500 <= len(excerpt) <= 1000
        start = int((others == excerpt[0]).nonzero()[0, 0])
        assert torch.equal(excerpt, others[start : start + len(excerpt)])


def test_inputs_are_unchanged_and_a_single_clip_is_not_mixed():
    settings, clean = MixupSettings(probability=1.0), clips(4)
    before = clean.clone()
    assert not torch.equal(mix_crops(clean, draws(4), settings, RATE), clean)
    assert torch.equal(clean, before)
    assert torch.equal(mix_crops(clean[:1], draws(1), settings, RATE), clean[:1])


def test_a_batch_divided_between_pools_is_mixed_as_one():
    settings, clean = MixupSettings(probability=0.7, pool=4), clips(12)
    whole = mix_crops(clean, draws(12), settings, RATE)
    parts = [mix_crops(clean[at : at + 4], draws(12)[at : at + 4], settings, RATE) for at in (0, 4, 8)]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, mix_crops(clean, draws(12, epoch=1), settings, RATE))
