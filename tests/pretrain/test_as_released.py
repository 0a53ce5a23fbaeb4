"""The settings of the recipes `…-as-released` against fairseq's and MERT's published procedures, written in NumPy."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from carrara.core.errors import UsageError
from carrara.core.settings import replace
from carrara.encoders._hub.load import build_encoder
from carrara.pretrain.masks import draw_masks
from carrara.pretrain.objectives._masked_network import MaskedPrediction
from carrara.pretrain.objectives.masked_prediction import check_batch_division
from carrara.pretrain.optimiser import scheduled_rate
from carrara.pretrain.recipes._base import MaskingSettings, ObjectiveSettings, OptimiserSettings, resolve
from carrara.pretrain.targets import REGISTRY
from carrara.pretrain.targets._base import FrameGrid, Target, TargetSettings

FRAMES, POOL = 374, 16  # 5 s at 24 kHz, MERT-95M's crops on a GPU


def draw_published_masks(rng, mask_prob, mask_length, min_masks, trimmed, num_crops=POOL, num_frames=FRAMES):
    """Return a batch of masks as the published code draws them, bool `[B, F]` (notes/pretraining, §3.2)."""
    masks = np.zeros((num_crops, num_frames), dtype=bool)
    for mask in masks:
        count = max(min_masks, int(mask_prob * num_frames / mask_length + rng.random()))
        for start in rng.choice(num_frames - mask_length, count, replace=False):
            mask[start : start + mask_length] = True
    fewest = masks.sum(1).min()
    for mask in masks if trimmed else ():
        (masked,) = mask.nonzero()
        mask[rng.choice(masked, len(masked) - fewest, replace=False)] = False
    return masks


def summarize(masks):
    """Return the share of masked frames and the mean length of the runs of masked frames."""
    starts = np.diff(np.pad(masks, ((0, 0), (1, 0))).astype(int), axis=1) == 1
    return masks.mean(), masks.sum() / starts.sum()


@pytest.mark.parametrize(
    ("same_masks", "share", "mean_run"), [(False, 0.582, 8.7), (True, 0.539, 5.6)], ids=["whole spans", "trimmed"]
)
def test_masked_share_and_mean_run_are_those_of_the_published_procedure(same_masks, share, mean_run):
    """MERT's p = .8 and spans of 5: 58.2 % in runs of 8.7 frames; trimmed among 16 crops, 53.9 % in runs of 5.6."""
    settings = MaskingSettings(mask_prob=0.8, mask_length=5, same_masks=same_masks, pool=POOL)
    draws = [(7, 0, item) for item in range(100 * POOL)]
    ours = draw_masks(draws, settings, FRAMES).numpy()
    rng = np.random.default_rng(0)
    published = np.concatenate([draw_published_masks(rng, 0.8, 5, 2, same_masks) for _ in range(100)])
    # Standard errors: .1 % of the share, .4 % of the mean run.
    assert summarize(ours) == pytest.approx(summarize(published), rel=0.015)
    assert summarize(ours) == pytest.approx((share, mean_run), rel=0.02)


def test_trimming_only_unmasks_and_equalizes_the_crops_of_a_pool():
    whole = MaskingSettings(mask_prob=0.8, mask_length=5)
    trimmed = whole.model_copy(update={"same_masks": True, "pool": 6})
    draws = [(1, 2, item) for item in range(20)]
    before, after = (draw_masks(draws, settings, 100) for settings in (whole, trimmed))
    assert not (after & ~before).any()
    for start in (0, 6, 12, 18):
        counts = after[start : start + 6].sum(1)
        assert set(counts.tolist()) == {int(before[start : start + 6].sum(1).min())}
    assert torch.equal(after, draw_masks(draws, trimmed, 100))
    assert draw_masks([], trimmed, 100).shape == (0, 100)


def test_pools_of_masks_that_ranks_would_divide_are_refused():
    recipe = resolve("mert-v1-95m-as-released")
    check_batch_division(recipe, 64)
    with pytest.raises(UsageError, match=r"12 does not fit .* give --set masking.pool=8, or --set batch=1536"):
        check_batch_division(replace(recipe, {"masking.pool": 12}), 64)


def test_the_warm_up_is_fairseqs():
    """fairseq: num_updates / warmup_updates, num_updates being 0 at the first update; then a line down to 0."""
    settings = OptimiserSettings(learning_rate=5e-4, warmup_fraction=0.08, warmup_from_zero=True)
    rates = [scheduled_rate(step, 400_000, settings) for step in (0, 1, 16_000, 31_999, 32_000, 216_000, 399_999)]
    expected = [0, 5e-4 / 32_000, 2.5e-4, 5e-4 * 31_999 / 32_000, 5e-4, 2.5e-4, 5e-4 / 368_000]
    assert rates == pytest.approx(expected, rel=1e-9)
    default = settings.model_copy(update={"warmup_from_zero": False})
    for step in (0, 1, 20_000, 31_998):
        assert scheduled_rate(step, 400_000, default) == pytest.approx(scheduled_rate(step + 1, 400_000, settings))
    for step in (32_000, 100_000):
        assert scheduled_rate(step, 400_000, default) == scheduled_rate(step, 400_000, settings)


class Codebooks(Target):
    """Two codebooks of 1,024 codes."""

    num_classes = (1024, 1024)


def test_special_classes_give_fairseqs_loss_and_gradient():
    """fairseq: 1,028 rows a codebook, four special symbols first, which are candidates but never labels."""
    network = {"conv_channels": 8, "dim": 32, "num_layers": 1, "num_heads": 2, "ffn_dim": 32, "position_groups": 4}
    encoder = build_encoder("mert-v1-95m", 0, network | {"layerdrop": 0.0})
    target = Codebooks(TargetSettings(target="x"), FrameGrid(24_000, 320, 200))
    settings = ObjectiveSettings(final_dim=64, special_classes=4)
    model = MaskedPrediction(encoder, {"codes": target}, settings, 0).eval()
    assert [tuple(rows.shape) for rows in model.classes] == [(1028, 64)] * 2
    generator = torch.Generator().manual_seed(1)
    samples = 0.1 * torch.randn(2, 12_000, generator=generator)
    frames = encoder.num_frames(12_000)
    codes = torch.randint(1024, (2, frames, 2), generator=generator)
    mask = torch.rand(2, frames, generator=generator) < 0.5
    losses = model(samples, mask, {"codes": codes})
    losses.terms["prediction"].sum.backward()
    gradient = model.project.weight.grad.clone()
    model.zero_grad()
    hidden = model.encoder.layer_outputs(model.encoder.conv_features(samples), mask_BF=mask)[-1][mask]
    total = 0.0
    for index, projected in enumerate(model.project(hidden).chunk(2, dim=-1)):
        # fairseq's table: special symbols, then codes; a label is its code plus four.
        rows = torch.cat([model.classes[index][1024:], model.classes[index][:1024]])
        for frame, code in zip(projected, codes[mask][:, index]):
            logits = functional.cosine_similarity(frame, rows, dim=-1) / 0.1
            candidates = torch.cat([logits[code + 4][None], torch.cat([logits[: code + 4], logits[code + 5 :]])])
            total = total + functional.cross_entropy(candidates[None], torch.tensor([0]))
    total.backward()
    torch.testing.assert_close(losses.terms["prediction"].sum, total, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(gradient, model.project.weight.grad, rtol=1e-4, atol=1e-5)


def test_the_cqt_lies_200_samples_earlier_as_in_the_released_code():
    """nnAudio's CQT, which MERT's code calls: frame i centred on sample 320 i, of which the first T are the target."""
    features = pytest.importorskip("nnAudio.features.cqt")
    cqt = REGISTRY.get("cqt")
    grid = FrameGrid(24_000, 320, 200)
    released = cqt(cqt.settings_type(bins=84, bins_per_octave=12, centre="hop"), grid)
    samples = 0.1 * torch.randn(2, 24_000, generator=torch.Generator().manual_seed(0))
    theirs = features.CQT(
        sr=24_000, hop_length=320, fmin=32.7, n_bins=84, bins_per_octave=12, filter_scale=1, norm=1, window="hann",
        center=True, pad_mode="constant", output_format="Magnitude", verbose=False,
    )(samples).transpose(1, 2)[:, :74]  # fmt: skip
    ours = released.labels(samples, 74)
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-4
    # The default computes the same of audio that begins 200 samples earlier.
    default = cqt(cqt.settings_type(bins=84, bins_per_octave=12), grid)
    padded = functional.pad(samples, (120, 0))
    shifted = released.labels(padded, 75)[:, 1:]
    torch.testing.assert_close(default.labels(samples, 74), shifted, rtol=1e-5, atol=1e-5)
    assert float((default.labels(samples, 74) - theirs).norm() / theirs.norm()) > 0.01


@pytest.mark.parametrize(
    ("name", "pool", "batch"), [("mert-v1-95m-as-released", 16, 1024), ("mert-v1-330m-as-released", 7, 3584)]
)
def test_the_recipes_set_all_four_and_the_crops_of_a_gpu(name, pool, batch):
    recipe, default = resolve(name), resolve(name.removesuffix("-as-released"))
    changes = {
        "masking.same_masks": True,
        "masking.pool": pool,
        "mixup.pool": pool,
        "batch": batch,
        "objective.special_classes": 4,
        "optimiser.warmup_from_zero": True,
        "targets.cqt.centre": "hop",
    }
    assert recipe == replace(default, changes)
    assert recipe != default
    assert math.isclose(recipe.optimiser.learning_rate, default.optimiser.learning_rate)
