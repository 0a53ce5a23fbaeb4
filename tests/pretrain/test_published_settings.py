"""Published numbers, computed from the recipes, against those that the documents print.

Sources: the thesis (§4, §5.2, §5.3, tables 4.2 to 5.4, §A.0.1), both posters, the released configurations
(docs/notes/pretraining.md §1.7, §3.6) and M2D's paper. Networks are built on torch's meta device.
"""

import pytest
import torch

from carrara.core.settings import iter_paths
from carrara.encoders._hub.load import build_encoder
from carrara.pretrain.objectives.masked_prediction import check_batch_division
from carrara.pretrain.recipes import REGISTRY
from carrara.pretrain.recipes._base import Recipe, resolve

FAMILY = {name: REGISTRY.get(name) for name in REGISTRY.names()}
SCALED = [(name, scale) for name, family in FAMILY.items() for scale in family.scales]


def parameters(name, scale="base"):
    recipe = resolve(name, scale)
    with torch.device("meta"):
        return build_encoder(recipe.encoder, 0, recipe.network.model_dump()).card.parameters


def hours_per_step(name):
    recipe = resolve(name)
    return recipe.batch * recipe.crop_seconds / 3600


@pytest.mark.parametrize(
    ("name", "hours", "within"),
    [
        ("mert-v0", 1.5, 0.02),  # thesis §5.2
        ("mert-v1-95m", 1.5, 0.02),
        ("mert-v1-95m-as-released", 1.42, 0.01),  # 64 GPUs of 16 crops of 5 s
        ("mert-v1-330m", 5.5, 0.05),  # thesis §5.2
        ("mert-v1-330m-as-released", 5.1, 0.01),  # 64 GPUs of 8 times 7 crops of 5.12 s
        ("musichubert-k2000", 47 / 60, 0.01),
        ("musichubert-k2000-crop15s", 47 / 60, 0.01),
        ("musichubert-k2000-crop5s", 47 / 60, 0.01),
        ("music2vec", 63 / 60, 0.01),
        ("music2vec-crop5s-250k", 63 / 60, 0.01),
        ("m2d", 2048 * 6.08 / 3600, 1e-9),
    ],
)
def test_hours_of_a_batch(name, hours, within):
    assert hours_per_step(name) == pytest.approx(hours, abs=within)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("mert-v0", 94.37),
        ("mert-v1-95m", 94.37),
        ("mert-v1-330m", 315.43),
        ("mert-v1-330m-deepnorm", 315.43),
        ("musichubert-k500", 94.37),
        ("music2vec", 93.16),
        ("maest-30s", 86.02),
        ("m2d", 85.25),
    ],
)
def test_parameters_of_the_encoder(name, millions):
    assert parameters(name) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize(
    ("name", "steps", "learning_rate", "warmup", "crop"),
    [
        ("mert-v0", 400_000, 5e-4, 32_000, 5.0),
        ("mert-v1-95m", 400_000, 5e-4, 32_000, 5.0),
        ("mert-v1-330m", 400_000, 1.5e-3, 32_000, 5.12),
        ("musichubert-k2000", 400_000, 5e-4, 32_000, 30.0),  # excerpts of the thesis, §4
        ("musichubert-k2000-crop15s", 400_000, 5e-4, 32_000, 15.6),  # HuBERT's configuration
        ("musichubert-k2000-crop5s", 250_000, 5e-4, 20_000, 5.0),  # poster of ma2023
        ("music2vec", 400_000, 5e-4, 12_000, 30.0),
        ("music2vec-crop5s", 400_000, 5e-4, 12_000, 5.0),
        ("music2vec-crop5s-250k", 250_000, 5e-4, 7_500, 5.0),  # poster of ma2023
        ("music2vec-800k", 800_000, 5e-4, 24_000, 30.0),
    ],
)
def test_schedule_and_crop(name, steps, learning_rate, warmup, crop):
    recipe = resolve(name)
    assert (recipe.steps, recipe.optimiser.learning_rate, recipe.crop_seconds) == (steps, learning_rate, crop)
    assert round(recipe.optimiser.warmup_fraction * recipe.steps) == warmup


def test_steps_of_m2d_are_its_epochs_of_audioset():
    recipe = resolve("m2d")
    assert recipe.steps == pytest.approx(300 * 2_005_132 / recipe.batch, rel=1e-4)
    assert recipe.optimiser.learning_rate == pytest.approx(3e-4 * recipe.batch / 256)
    assert round(recipe.network.crop_seconds * 100) == 608 and recipe.network.columns * recipe.network.rows == 190


def test_m2d_has_the_defaults_of_its_published_code():
    """`train_audio.py` of github.com/nttcslab/m2d at f0c4128, and the command in its README: 4 GPUs of 512 crops."""
    recipe = resolve("m2d")
    optimiser, predictor = recipe.optimiser, recipe.predictor
    assert (recipe.target.decay, recipe.target.end_decay, recipe.masking.ratio) == (0.99995, 0.99999, 0.7)
    assert (predictor.num_layers, predictor.dim, predictor.num_heads, predictor.ffn_dim) == (8, 512, 16, 4 * 512)
    assert (optimiser.betas, optimiser.weight_decay, optimiser.max_grad_norm) == ((0.9, 0.95), 0.05, 3.0)
    assert recipe.batch == 4 * 512 and round(300 * optimiser.warmup_fraction) == 20
    assert (recipe.target.sees, recipe.target.error) == ("masked", "normalized")


def test_a_jepa_has_the_settings_of_i_jepa_s_configuration():
    """`configs/in1k_vith14_ep300.yaml` of github.com/facebookresearch/ijepa; the predictor's depth is for ViT-B."""
    recipe = resolve("a-jepa")
    masking, optimiser = recipe.masking, recipe.optimiser
    assert (recipe.target.decay, recipe.target.end_decay, recipe.predictor.dim) == (0.996, 1.0, 384)
    assert (masking.min_area, masking.max_area, optimiser.learning_rate) == (0.15, 0.2, 1e-3)
    assert (optimiser.weight_decay, round(300 * optimiser.warmup_fraction), recipe.batch) == (0.04, 40, 2048)


def test_the_four_runs_of_330m_and_ours():
    """Thesis §A.0.1: pre-LN with norm 10, pre-LN with norm 1, DeepNorm post-LN, relaxation; all in half precision."""
    runs = {name: resolve(name) for name in VARIANTS_330M}
    described = {
        name: (
            run.network.norm_placement,
            run.network.deepnorm,
            run.network.attention,
            run.network.relaxation,
            run.optimiser.max_grad_norm,
            run.precision,
        )
        for name, run in runs.items()
    }
    assert described == {
        "mert-v1-330m-pre-ln-clip10": ("pre", False, "eager", None, 10.0, "float16"),
        "mert-v1-330m-pre-ln-clip1": ("pre", False, "eager", None, 1.0, "float16"),
        "mert-v1-330m-deepnorm": ("post", True, "eager", None, 1.0, "float16"),
        "mert-v1-330m": ("pre", False, "eager", 32.0, 1.0, "float16"),
        "mert-v1-330m-bf16": ("pre", False, "sdpa", None, 1.0, "bfloat16"),
    }
    assert {run.loss_scale.double_after for run in runs.values()} == {32}  # fairseq's 2^14 over 64 GPUs and 8 parts


VARIANTS_330M = (
    "mert-v1-330m",
    "mert-v1-330m-pre-ln-clip10",
    "mert-v1-330m-pre-ln-clip1",
    "mert-v1-330m-deepnorm",
    "mert-v1-330m-bf16",
)


@pytest.mark.parametrize("scale", ["base", "small", "tiny"])
def test_330m_is_larger_than_95m_at_every_scale(scale):
    for name in VARIANTS_330M:
        assert parameters(name, scale) > 2 * parameters("mert-v1-95m", scale)
        large, base = resolve(name, scale).network, resolve("mert-v1-95m", scale).network
        assert large.num_layers == 2 * base.num_layers
        assert large.dim > base.dim and large.num_heads > base.num_heads and large.ffn_dim > base.ffn_dim


def test_the_second_iteration_has_500_clusters_of_a_layer_of_mert():
    recipe = resolve("mert-v0-iter2")
    assert set(recipe.targets) == {"layer"}
    target = recipe.targets["layer"]
    assert (target.feature, target.k, target.encoder) == ("layer", 500, "mert-v0")


@pytest.mark.parametrize("family", sorted({REGISTRY.get_entry(name).module for name in FAMILY}))
def test_every_family_has_three_scales_of_falling_size_and_length(family):
    names = [name for name in FAMILY if REGISTRY.get_entry(name).module == family]
    for name in names:
        assert list(FAMILY[name].scales) == ["base", "small", "tiny"]
        recipes = [resolve(name, scale) for scale in ("base", "small", "tiny")]
        if hasattr(recipes[0], "encoder"):
            assert parameters(name) > parameters(name, "small") > parameters(name, "tiny")
        if hasattr(recipes[0], "epochs"):
            assert recipes[0].epoch_clips > recipes[1].epoch_clips > recipes[2].epoch_clips
        else:
            assert recipes[0].steps > recipes[1].steps > recipes[2].steps
        assert recipes[2].precision == "float32"


def test_variants_of_a_family_differ_at_every_scale():
    """Except that mert-v0-public differs in its corpus alone, and bf16 in a precision that tiny does not have."""
    seen = {}
    for name, scale in SCALED:
        if name == "mert-v0-public" or (scale == "tiny" and name.endswith("-bf16")):
            continue
        recipe = resolve(name, scale)
        seen.setdefault((scale, recipe.model_dump_json()), []).append(name)
    assert [names for names in seen.values() if len(names) > 1] == []


@pytest.mark.parametrize("ranks", [1, 2, 4, 8, 64])
def test_batches_at_the_published_size_divide_over_ranks(ranks):
    for name in FAMILY:
        if isinstance(resolve(name), Recipe):
            check_batch_division(resolve(name), ranks)


def test_every_setting_of_masked_prediction_has_a_recipe_that_uses_it():
    """A setting that is the same in all recipes at all scales is an option without use, or a constant as published."""
    infrastructure = ("seed", "fsdp", "compile", "timeout_seconds", "accumulation_steps", "loss_scale.", "recovery.")
    constants = {
        "masking.noise_std", "mixup.excerpts", "mixup.volume", "objective.temperature", "optimiser.betas",
        "optimiser.epsilon", "optimiser.front_end_factor", "optimiser.momentum", "optimiser.name",
        "optimiser.weight_decay",
    }  # fmt: skip
    values = {}
    for name, scale in SCALED:
        recipe = resolve(name, scale)
        if isinstance(recipe, Recipe):
            dumped = recipe.model_dump(mode="json", exclude={"network", "targets"})
            for path in iter_paths(dumped):
                value = dumped
                for key in path.split("."):
                    value = value[key]
                values.setdefault(path, set()).add(str(value))
    unused = {path for path, seen in values.items() if len(seen) == 1 and not path.startswith(infrastructure)}
    assert unused <= constants
