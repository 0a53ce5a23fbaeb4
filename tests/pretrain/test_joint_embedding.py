"""Joint embedding: what each network sees, the error, the average, and a run in all its forms."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import carrara
from carrara.core.errors import CarraraError, DataError, UsageError
from carrara.core.settings import replace
from carrara.pretrain.corpus.stream import CropBatch
from carrara.pretrain.distributed import Dist
from carrara.pretrain.metrics_log import read_metrics, read_probes
from carrara.pretrain.objectives._patch_predictor import (
    error_of_positions,
    prediction_error,
    standardize,
    std_over_crops,
    sum_by_position,
)
from carrara.pretrain.optimiser import cosine_decay
from carrara.pretrain.patch_masks import draw_masked_patches
from carrara.pretrain.recipes._base import resolve
from carrara.pretrain.recipes.joint_embedding import PatchMaskSettings
from carrara.pretrain.run import build_run, pretrain

MICRO = {
    "network.columns": 8,
    "network.dim": 32,
    "network.num_layers": 2,
    "network.num_heads": 2,
    "network.ffn_dim": 64,
    "predictor.dim": 16,
    "predictor.num_layers": 1,
    "predictor.num_heads": 2,
    "predictor.ffn_dim": 32,
    "crop_seconds": 1.28,
    "optimiser.epsilon": 1e-6,  # keys' biases have no gradient but rounding, which a smaller one would turn into steps
    "batch": 5,
    "accumulation_steps": 2,
    "steps": 6,
    "checkpoint_every": 2,
    "log_every": 1,
}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def recipe():
    return resolve("m2d", "tiny", MICRO)


@pytest.fixture(scope="module")
def alone(recipe, corpus, tmp_path_factory):
    return pretrain(recipe, corpus, tmp_path_factory.mktemp("runs") / "alone", device="cpu")


@pytest.fixture
def start(corpus, tmp_path):
    """(recipe) → its run before the first step."""

    def build(recipe):
        run = build_run(recipe, [corpus], tmp_path / "started", False, Dist(device=CPU))
        run.log.close()
        return run

    return build


def weights(folder):
    return load_file(folder / "training" / "last.safetensors")


def assert_close(folder, other, tolerance=1e-5):
    losses = [[line["loss"] for line in read_metrics(each / "metrics.jsonl")] for each in (folder, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and len(losses[0]) == 6
    first, second = weights(folder), weights(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=1e-4, atol=tolerance, msg=name)


@pytest.mark.parametrize("shape", ["patches", "rectangles"])
def test_masks_are_as_many_in_every_crop_and_depend_on_the_crop_alone(shape):
    settings = PatchMaskSettings(ratio=0.7, shape=shape)
    draws = [(1, 0, item) for item in range(20)]
    masked, visible = draw_masked_patches(draws, 38, 5, settings)
    assert masked.shape == (20, 133) and visible.shape == (20, 57)
    assert (torch.cat([masked, visible], 1).sort(1).values == torch.arange(190)).all()
    assert len({tuple(row) for row in masked.tolist()}) > 15
    alone, _ = draw_masked_patches(draws[7:8], 38, 5, settings)
    assert torch.equal(alone[0], masked[7])


def test_masks_at_random_are_uniform_and_rectangles_are_connected():
    random, _ = draw_masked_patches([(1, 0, item) for item in range(400)], 10, 5, PatchMaskSettings(ratio=0.4))
    counts = np.bincount(random.flatten(), minlength=50) / 400
    assert np.abs(counts - 0.4).max() < 5 * (0.4 * 0.6 / 400) ** 0.5
    settings = PatchMaskSettings(ratio=0.15, shape="rectangles", min_area=0.16, max_area=0.16)
    masked, _ = draw_masked_patches([(1, 0, item) for item in range(50)], 20, 10, settings)
    for indices in masked.tolist():  # one rectangle, of which a part may be cut
        columns, rows = {index // 10 for index in indices}, {index % 10 for index in indices}
        assert max(columns) - min(columns) == len(columns) - 1 and max(rows) - min(rows) == len(rows) - 1
        assert 30 <= len(columns) * len(rows) <= 36


def test_error_is_the_closed_form():
    rng = np.random.default_rng(1)
    predicted, encoded = rng.normal(size=(2, 3, 4, 16)) + 0.5
    target = (encoded - encoded.mean(-1, keepdims=True)) / np.sqrt(encoded.var(-1, keepdims=True) + 1e-5)
    ours = standardize(torch.from_numpy(encoded))
    np.testing.assert_allclose(ours, target, atol=1e-5)
    cosine = (predicted * target).sum(-1) / np.linalg.norm(predicted, axis=-1) / np.linalg.norm(target, axis=-1)
    error, compared = prediction_error(torch.from_numpy(predicted), ours, "normalized")
    np.testing.assert_allclose(error, 2 - 2 * cosine, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(compared, axis=-1), 1, atol=1e-5)
    error, _ = prediction_error(torch.from_numpy(predicted), ours, "squared")
    np.testing.assert_allclose(error, ((predicted - target) ** 2).mean(-1), atol=1e-5)


def test_the_baseline_knows_positions_and_nothing_else():
    rng = np.random.default_rng(2)
    index = rng.integers(0, 5, (40, 6))
    values = 0.3 * rng.normal(size=(40, 6, 16)) + rng.normal(size=(5, 16))[index]
    target = standardize(torch.from_numpy(values)).double().numpy()
    parts = [sum_by_position(torch.from_numpy(target[rows]), torch.from_numpy(index[rows]), 7)
             for rows in (slice(0, 15), slice(15, 40))]  # fmt: skip
    sums = parts[0] + parts[1]
    mean = np.stack([target[index == position].mean(0) for position in range(5)])[index]
    assert error_of_positions(sums, "squared") == pytest.approx(((target - mean) ** 2).mean())
    cosine = (mean * target).sum(-1) / np.linalg.norm(mean, axis=-1) / np.linalg.norm(target, axis=-1)
    assert error_of_positions(sums, "normalized") == pytest.approx((2 - 2 * cosine).mean(), abs=1e-4)
    freedom = (target.shape[0] * target.shape[1] - 5) * 16
    assert std_over_crops(sums) == pytest.approx((((target - mean) ** 2).sum() / freedom) ** 0.5)
    # Targets that depend on the position alone have collapsed, however much the positions differ.
    assert std_over_crops(sum_by_position(torch.from_numpy(mean), torch.from_numpy(index), 7)) < 1e-6


def crops_of(run, seed=0):
    samples = 0.1 * torch.randn(2, run.objective.stream.crop_samples, generator=torch.Generator().manual_seed(seed))
    first, _ = run.objective.micro_batches(CropBatch(0, samples, (0, 0), (0, 1), ()))
    return first


@pytest.mark.parametrize("name", ["m2d", "a-jepa"])
def test_each_network_sees_its_patches_only(name, start):
    run = start(resolve(name, "tiny", MICRO))
    objective, crops = run.objective, crops_of(run)
    patches = objective.encoder.patches(crops.samples_BT)
    masked, visible = crops.masked_BM, crops.visible_BK

    def noise_in(index):
        return patches.scatter(1, index[..., None].expand(-1, -1, 256), torch.randn(1, index.shape[1], 256))

    def target(values):
        sees = masked if objective.recipe.target.sees == "masked" else None
        encoded = objective.target.encode(values, sees)[-1]
        return encoded if sees is not None else encoded[:, masked[0]]

    with torch.no_grad():
        predicted = objective.module(patches, visible, masked)
        assert torch.equal(predicted, objective.module(noise_in(masked), visible, masked))
        assert not torch.allclose(predicted, objective.module(noise_in(visible), visible, masked), atol=1e-3)
        assert torch.equal(target(patches), target(noise_in(visible))) == (name == "m2d")
        assert not torch.allclose(target(patches), target(noise_in(masked)), atol=1e-3)
        # A masked patch is predicted for its own position.
        moved = objective.module(patches, visible, masked.flip(1))
    torch.testing.assert_close(moved.flip(1), predicted)


def test_the_average_follows_the_encoder(start):
    run = start(resolve("m2d", "tiny", {**MICRO, "steps": 101, "target.decay": 0.5, "target.end_decay": 0.9}))
    objective = run.objective
    assert [objective.decay_at(step) for step in (0, 50.5, 101)] == pytest.approx([0.5, 0.7, 0.9])
    assert not any(parameter.requires_grad for parameter in objective.target.parameters())
    before = {name: tensor.clone() for name, tensor in objective.target.state_dict().items()}
    with torch.no_grad():
        for parameter in objective.encoder.parameters():
            parameter.add_(1)
    objective.after_step(0, is_taken=False)
    assert all(torch.equal(before[name], tensor) for name, tensor in objective.target.state_dict().items())
    objective.after_step(0, is_taken=True)
    for name, parameter in objective.target.named_parameters():
        torch.testing.assert_close(parameter, before[name] + 0.5)


def test_the_learning_rate_is_a_cosine():
    rates = [cosine_decay(step, 300, 2.0, 20 / 300) for step in range(300)]
    assert rates[0] == pytest.approx(0.1) and rates[19] == rates[20] == 2.0
    assert rates[160] == pytest.approx(1.0) and rates[-1] < 1e-3


def test_spectrograms_have_mean_0_and_variance_1_over_the_corpus(start, recipe):
    objective = start(replace(recipe, {"batch": 10})).objective
    crops = torch.cat([objective.stream.read_batch(step).samples_BT for step in range(26)])[:256]
    values = objective.encoder.patches(crops)
    assert float(values.mean()) == pytest.approx(0, abs=1e-4) and float(values.std()) == pytest.approx(1, abs=1e-3)
    assert torch.equal(objective.target.mel_mean, objective.encoder.mel_mean)


def test_the_folder_is_an_encoder_and_so_is_the_average(alone, corpus, recipe):
    encoder = carrara.load(alone)
    layers = encoder(torch.randn(2, 3 * 16_000))
    assert layers.shape == (2, 3, 19, 160) and encoder.card.frame_rate == 6.25
    state = weights(alone)
    assert all(torch.equal(tensor, state[f"model.encoder.{name}"]) for name, tensor in encoder.state_dict().items())
    average = carrara.load(alone / "target").state_dict()
    assert all(torch.equal(tensor, state[f"ema.target.{name}"]) for name, tensor in average.items())
    assert carrara.embed([next(corpus.rglob("*.flac"))], encoder).num_rows == 1
    last = read_metrics(alone / "metrics.jsonl")[-1]
    assert 0 < last["loss"] < 4 and last["ema_decay"] > 0.99 and last["rank/last"] > 1
    assert "representation of masked patches" in (alone / "README.md").read_text()


@pytest.mark.parametrize("changes", [{"accumulation_steps": 1}, {"activation_checkpointing": True}])
def test_the_division_of_a_batch_and_recomputation_change_nothing(changes, recipe, corpus, alone, tmp_path):
    assert_close(pretrain(replace(recipe, changes), corpus, tmp_path / "run", device="cpu"), alone)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_learns_what_single_precision_does(precision, recipe, corpus, alone, tmp_path):
    folder = pretrain(replace(recipe, {"precision": precision}), corpus, tmp_path / "run", device="cpu")
    losses = [[line["loss"] for line in read_metrics(each / "metrics.jsonl")] for each in (folder, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [False, True])
def test_two_ranks_do_what_one_process_does(start_ranks, wait_for, recipe, corpus, alone, tmp_path, fsdp):
    codes, messages = wait_for(start_ranks(replace(recipe, {"fsdp": fsdp}), corpus, tmp_path / "two"))
    assert codes == [0, 0], messages
    assert_close(tmp_path / "two", alone)
    for name in ("model.safetensors", "target/model.safetensors"):
        ours, theirs = load_file(tmp_path / "two" / name), load_file(alone / name)
        assert all(torch.allclose(ours[key], theirs[key], atol=1e-5) for key in theirs)


def test_a_probe_changes_nothing(recipe, corpus, alone, tmp_path):
    score = {"score": 0.5, "low": 0.25, "high": 0.75, "metric": "accuracy", "seconds": 0.1}
    folder = pretrain(
        recipe, corpus, tmp_path / "run", probe=lambda encoder: {"mine": score}, probe_every=3, device="cpu"
    )
    assert [line["step"] for line in read_probes(folder / "metrics.jsonl")] == [0, 3, 6]
    ours, theirs = weights(folder), weights(alone)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_it_starts_from_another_encoder(recipe, corpus, alone, tmp_path):
    short = replace(recipe, {"steps": 1, "optimiser.learning_rate": 1e-12})
    folder = pretrain(short, corpus, tmp_path / "run", start=alone, device="cpu")
    ours, theirs = carrara.load(folder).state_dict(), carrara.load(alone).state_dict()
    assert all(torch.allclose(ours[name], theirs[name]) for name in theirs)
    assert json.loads((folder / "run.json").read_text())["initialization"]["from"] == str(alone)
    assert pretrain(short, corpus, folder, start=alone, resume=True, device="cpu") == folder
    with pytest.raises(UsageError, match=r"network: dim is 128 there and 32 here.*--set network\.dim=128"):
        pretrain(short, corpus, tmp_path / "x", start="mel-patch-tiny:random", device="cpu")
    with pytest.raises(UsageError, match="is no network of the recipe's kind"):
        pretrain(short, corpus, tmp_path / "x", start="noise", device="cpu")
    assert not (tmp_path / "x").exists()


def test_collapse_stops_the_run(recipe, corpus, tmp_path):
    collapsed = replace(recipe, {"recovery.min_target_std": 10.0, "recovery.collapse_check_after": 2})
    with pytest.raises(DataError, match="step 2: collapse: std/target/patches"):
        pretrain(collapsed, corpus, tmp_path / "run", device="cpu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_seconds": 2.0}, r"gives 13 columns of patches, network\.columns is 8; give --set network\.columns=13"),
        ({"encoder": "mert-tiny"}, "has no mel patches to mask"),
        ({"batch": 0}, "batch"),
    ],
)
def test_what_cannot_be_trained_is_refused(changes, message, corpus, tmp_path):
    values = {"encoder": "mel-patch-tiny", "steps": 1, "crop_seconds": 1.28, **changes}
    if values["encoder"] == "mel-patch-tiny":
        values["network"] = {"columns": 8}
    with pytest.raises((CarraraError, ValueError), match=message):
        pretrain(type(resolve("m2d", "tiny")).model_validate(values), corpus, tmp_path / "run", device="cpu")


def test_a_silent_corpus_is_refused(recipe, tmp_path):
    import soundfile

    (tmp_path / "silence").mkdir()
    soundfile.write(tmp_path / "silence" / "a.wav", np.zeros(32_000), 16_000)
    with pytest.raises(DataError, match="silent"):
        pretrain(recipe, tmp_path / "silence", tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()
