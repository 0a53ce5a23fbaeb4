"""The parts of MAEST's recipe against the numbers of its paper and naive implementations."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy.stats import beta, kstest
from sklearn.metrics import average_precision_score, roc_auc_score

from carrara.core.errors import UsageError
from carrara.encoders._maest.network import MaestSettings
from carrara.pretrain.recipes._base import resolve
from carrara.pretrain.tagging.augment import masked, mixing
from carrara.pretrain.tagging.average import count_in, due
from carrara.pretrain.tagging.patchout import kept_columns
from carrara.pretrain.tagging.sampling import weights
from carrara.pretrain.tagging.schedule import learning_rate
from carrara.pretrain.tagging.scores import scores
from carrara.pretrain.tagging.settings import AveragingSettings, SpecAugmentSettings, TaggingOptimiserSettings


def draws(seed=0):
    return np.random.default_rng(seed)


def test_the_learning_rate_goes_as_published():
    # encoders.md 1.5: exp(-5 (1 - e/5)^2), e at least .5, over 5 epochs; flat to 50; down to 1 % by 100; 1 % after.
    settings = TaggingOptimiserSettings()
    relative = [learning_rate(epoch, settings) / 2e-5 for epoch in range(130)]
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
    assert shape.time_patches(seconds * 16_000 // 256) == columns
    chosen = kept_columns(columns, recipe.patchout, draws())
    assert len(chosen) == kept
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert set(chosen.tolist()) <= set(range(columns))
    # 5 s to 30 s: 135, 279, 576, 864 patch tokens.
    assert len(chosen) * shape.rows == {5: 135, 10: 279, 20: 576, 30: 864}[seconds]


def test_every_column_is_left_out_as_often_as_any_other():
    draw, counts = draws(), np.zeros(10)
    for _ in range(2000):
        counts[kept_columns(10, 4, draw).numpy()] += 1
    # Binomial with p = .6: a deviation of 22.
    assert np.abs(counts - 1200).max() < 5 * 22
    assert kept_columns(10, 0, draw) is None


def test_patchout_of_every_column_is_refused():
    with pytest.raises(UsageError, match="patchout 30 would drop every one of the 30 columns .* use 15"):
        kept_columns(30, 30, draws())


def test_mixup_keeps_the_larger_share_of_beta():
    mix = mixing(4000, 0.3, draws())
    own = mix.own_B.numpy()
    assert own.min() >= 0.5
    # max(b, 1 - b) of a symmetric Beta has twice its distribution above one half.
    assert kstest(own, lambda x: 2 * beta.cdf(x, 0.3, 0.3) - 1).pvalue > 1e-3
    assert sorted(mix.other_B.tolist()) == list(range(4000))


def test_mixup_mixes_sounds_and_tags_alike():
    mix, sounds, tags = mixing(5, 0.3, draws()), torch.randn(5, 7, 3), torch.rand(5, 2)
    for number in range(5):
        other, own = int(mix.other_B[number]), float(mix.own_B[number])
        for given, made in ((sounds, mix(sounds)), (tags, mix(tags))):
            torch.testing.assert_close(made[number], own * given[number] + (1 - own) * given[other])
    torch.testing.assert_close(mixing(5, 0.0, draws())(sounds), sounds)


def test_masks_change_what_is_heard_within_their_bounds():
    settings, mel = SpecAugmentSettings(), torch.randn(64, 312, 96) + 3
    given = mel.clone()
    heard = masked(mel, settings, draws())
    assert torch.equal(mel, given)
    gone = heard == 0
    frames, bands = gone.all(2), gone.all(1)
    assert torch.equal(gone, frames[:, :, None] | bands[:, None])
    assert torch.equal(heard[~gone], mel[~gone])
    # 20 stretches of 0 to 8 frames, 8 of 0 to 5 bands: their means are 80 frames and 20 bands, less what overlaps.
    assert float(frames.sum(1).float().mean()) == pytest.approx(312 * (1 - (1 - 4 / 312) ** 20), rel=0.1)
    assert float(bands.sum(1).float().mean()) == pytest.approx(96 * (1 - (1 - 2.5 / 96) ** 8), rel=0.15)
    assert not torch.equal(frames[0], frames[1])
    assert torch.equal(masked(mel, SpecAugmentSettings(time_masks=0, band_masks=0), draws()), mel)


def test_one_mask_is_never_longer_than_it_may_be():
    for share, longest in ((1.0, 8), (0.1, 3)):
        settings = SpecAugmentSettings(time_masks=1, band_masks=0, max_fraction=share)
        gone = (masked(torch.ones(500, 31, 4), settings, draws()) == 0).all(2).sum(1)
        assert (int(gone.min()), int(gone.max())) == (0, longest)


def test_rare_tags_weigh_more():
    tags = np.zeros((1000, 2), dtype=bool)
    tags[:900, 0] = tags[890:, 1] = True
    weight = weights(np.vstack([tags, np.zeros((1, 2), dtype=bool)]))
    assert weight[0] == pytest.approx(1000 / (900 + 100))
    assert weight[999] == pytest.approx(1000 / (110 + 100))
    assert weight[895] == pytest.approx(1000 / 1000 + 1000 / 210)
    assert weight[1000] == 0


def test_the_average_is_the_plain_mean_of_what_was_counted_in():
    networks = [torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)) for _ in range(4)]
    for number, network in enumerate(networks):
        network[1].num_batches_tracked.fill_(number)
    average = copy.deepcopy(networks[3])
    for before, network in enumerate(networks):
        count_in(average, network, before)
    wanted = torch.stack([network[0].weight for network in networks]).mean(0)
    torch.testing.assert_close(average[0].weight, wanted)
    assert int(average[1].num_batches_tracked) == 3


def test_networks_are_counted_in_every_fifth_epoch_from_the_fiftieth():
    assert [epochs for epochs in range(1, 131) if due(epochs, AveragingSettings())] == list(range(50, 131, 5))
    assert not any(due(epochs, AveragingSettings(every=0)) for epochs in range(1, 131))


def test_scores_are_scikit_learns_over_the_tags_that_can_be_judged():
    draw = draws()
    tags, told = draw.random((40, 5)) > 0.6, draw.random((40, 5))
    tags[:, 1], tags[:, 3] = True, False
    found, judged = scores(tags, told), [0, 2, 4]
    wanted = [average_precision_score(tags[:, tag], told[:, tag]) for tag in judged]
    assert found["average_precision"] == pytest.approx(np.mean(wanted))
    assert found["roc_auc"] == pytest.approx(np.mean([roc_auc_score(tags[:, tag], told[:, tag]) for tag in judged]))
    assert scores(tags[:, [1, 3]], told[:, [1, 3]]) == {}


def test_the_published_recipes_are_the_spec_s():
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
        assert (tiny.epochs, tiny.averaging.first, tiny.averaging.every) == (52, 20, 2)
    assert resolve("maest-10s-dw").initial.kind == "deit"
    assert resolve("maest-30s-ts").network.distilled == "separated"
    assert resolve("effnet-tagger", "tiny").patchout == 0
