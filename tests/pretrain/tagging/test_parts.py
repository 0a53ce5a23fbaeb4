"""The parts of MAEST's recipe against the numbers of its paper and naive implementations."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy.stats import beta, kstest

from carrara.encoders._maest.network import MaestSettings
from carrara.pretrain.objectives.tagging import epoch_learning_rate, is_swa_epoch, swa_update
from carrara.pretrain.recipes._base import resolve
from carrara.pretrain.tagging.augment import draw_mixup, mask_spectrograms
from carrara.pretrain.tagging.data import clip_weights
from carrara.pretrain.tagging.network import draw_columns
from carrara.pretrain.tagging.settings import SpecAugmentSettings, SWASettings, TaggingOptimiserSettings


def new_rng(seed=0):
    return np.random.default_rng(seed)


def test_the_learning_rate_is_the_published_one():
    # notes/encoders §1.5: exp(-5 (1 - e/5)^2), e at least .5, over 5 epochs; flat to 50; down to 1 % by 100; 1 % after.
    settings = TaggingOptimiserSettings()
    relative = [epoch_learning_rate(epoch, settings) / 2e-5 for epoch in range(130)]
    assert relative[0] == pytest.approx(math.exp(-5 * 0.9**2))
    assert relative[1:5] == pytest.approx([math.exp(-5 * (1 - epoch / 5) ** 2) for epoch in range(1, 5)])
    assert relative[5:51] == [1.0] * 46
    assert relative[75] == pytest.approx((1 + 0.01) / 2)
    assert np.diff(relative[50:101]) == pytest.approx([-0.99 / 50] * 50)
    assert relative[100:] == pytest.approx([0.01] * 30)


@pytest.mark.parametrize(("seconds", "columns", "kept"), [(5, 30, 15), (10, 61, 31), (20, 124, 64), (30, 186, 96)])
def test_patchout_keeps_the_published_columns(seconds, columns, kept):
    recipe = resolve(f"maest-{seconds}s")
    shape = recipe.network.shape
    assert shape.num_columns(seconds * 16_000 // 256) == columns
    chosen = draw_columns(columns, recipe.patchout, new_rng())
    assert len(chosen) == kept
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert set(chosen.tolist()) <= set(range(columns))
    # 5 s to 30 s: 135, 279, 576, 864 patch tokens.
    assert len(chosen) * shape.rows == {5: 135, 10: 279, 20: 576, 30: 864}[seconds]


def test_every_column_is_left_out_as_often_as_any_other():
    draw, counts = new_rng(), np.zeros(10)
    for _ in range(2000):
        counts[draw_columns(10, 4, draw).numpy()] += 1
    # Binomial with p = .6: a standard deviation of 22.
    assert np.abs(counts - 1200).max() < 5 * 22
    assert draw_columns(10, 0, draw) is None


def test_mixup_weights_the_crop_itself_more():
    mix = draw_mixup(4000, 0.3, new_rng())
    own = mix.weight_B.numpy()
    assert own.min() >= 0.5
    # max(b, 1 - b) of a symmetric Beta has twice its distribution above one half.
    assert kstest(own, lambda x: 2 * beta.cdf(x, 0.3, 0.3) - 1).pvalue > 1e-3
    assert sorted(mix.partner_B.tolist()) == list(range(4000))


def test_mixup_mixes_audio_and_tags_alike():
    mix, sounds, tags = draw_mixup(5, 0.3, new_rng()), torch.randn(5, 7, 3), torch.rand(5, 2)
    for number in range(5):
        other, own = int(mix.partner_B[number]), float(mix.weight_B[number])
        for plain, mixed in ((sounds, mix(sounds)), (tags, mix(tags))):
            torch.testing.assert_close(mixed[number], own * plain[number] + (1 - own) * plain[other])
    torch.testing.assert_close(draw_mixup(5, 0.0, new_rng())(sounds), sounds)


def test_masks_stay_within_their_bounds():
    settings, mel = SpecAugmentSettings(), torch.randn(64, 312, 96) + 3
    given = mel.clone()
    masked = mask_spectrograms(mel, settings, new_rng())
    assert torch.equal(mel, given)
    gone = masked == 0
    frames, bands = gone.all(2), gone.all(1)
    assert torch.equal(gone, frames[:, :, None] | bands[:, None])
    assert torch.equal(masked[~gone], mel[~gone])
    # 20 stretches of 0 to 8 frames, 8 of 0 to 5 bands: their means are 80 frames and 20 bands, less what overlaps.
    assert float(frames.sum(1).float().mean()) == pytest.approx(312 * (1 - (1 - 4 / 312) ** 20), rel=0.1)
    assert float(bands.sum(1).float().mean()) == pytest.approx(96 * (1 - (1 - 2.5 / 96) ** 8), rel=0.15)
    assert not torch.equal(frames[0], frames[1])
    assert torch.equal(mask_spectrograms(mel, SpecAugmentSettings(time_masks=0, band_masks=0), new_rng()), mel)


def test_one_mask_is_never_longer_than_it_may_be():
    for fraction, longest in ((1.0, 8), (0.1, 3)):
        settings = SpecAugmentSettings(time_masks=1, band_masks=0, max_fraction=fraction)
        gone = (mask_spectrograms(torch.ones(500, 31, 4), settings, new_rng()) == 0).all(2).sum(1)
        assert (int(gone.min()), int(gone.max())) == (0, longest)


def test_rare_tags_weigh_more():
    tags = np.zeros((1000, 2), dtype=bool)
    tags[:900, 0] = tags[890:, 1] = True
    weight = clip_weights(np.vstack([tags, np.zeros((1, 2), dtype=bool)]))
    assert weight[0] == pytest.approx(1000 / (900 + 100))
    assert weight[999] == pytest.approx(1000 / (110 + 100))
    assert weight[895] == pytest.approx(1000 / 1000 + 1000 / 210)
    assert weight[1000] == 0


def test_the_average_is_the_plain_mean_of_the_networks():
    networks = [torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)) for _ in range(4)]
    for number, network in enumerate(networks):
        network[1].num_batches_tracked.fill_(number)
    average = copy.deepcopy(networks[3])
    for before, network in enumerate(networks):
        swa_update(average, network, before)
    expected = torch.stack([network[0].weight for network in networks]).mean(0)
    torch.testing.assert_close(average[0].weight, expected)
    assert int(average[1].num_batches_tracked) == 3


def test_every_fifth_epoch_from_the_fiftieth_is_averaged():
    assert [epochs for epochs in range(1, 131) if is_swa_epoch(epochs, SWASettings())] == list(range(50, 131, 5))
    assert not any(is_swa_epoch(epochs, SWASettings(every=0)) for epochs in range(1, 131))


def test_the_recipes_are_the_published_ones():
    for seconds, patchout in ((5, 15), (10, 30), (20, 60), (30, 90)):
        recipe = resolve(f"maest-{seconds}s")
        assert (recipe.patchout, recipe.crop_seconds, recipe.network.frames) == (
            patchout, seconds, seconds * 16_000 // 256,
        )  # fmt: skip
        assert (recipe.batch, recipe.epoch_clips, recipe.epochs, recipe.mixup) == (48, 200_000, 130, 0.3)
        assert isinstance(recipe.network, MaestSettings)
        # The name of the published checkpoint: epoch=129-step=541709, counted from 0.
        assert math.ceil(recipe.epoch_clips / recipe.batch) * recipe.epochs == 541_710
        tiny = resolve(f"maest-{seconds}s", "tiny")
        assert (tiny.crop_seconds, tiny.patchout) == (recipe.crop_seconds, recipe.patchout)
        assert (tiny.epochs, tiny.swa.first, tiny.swa.every) == (52, 20, 2)
    assert resolve("maest-10s-dw").initial.kind == "deit"
    assert resolve("maest-30s-ts").network.distilled == "separated"
    assert resolve("effnet-tagger", "tiny").patchout == 0
