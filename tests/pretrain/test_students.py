"""Masked prediction trains any encoder of frames: HuBERT's shape, the conformers on mel spectrograms, patches."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import carrara
from carrara.core.errors import UsageError
from carrara.core.settings import parse_settings, replace
from carrara.encoders._hub.load import build_encoder
from carrara.pretrain.corpus.build import build_corpus
from carrara.pretrain.corpus.stream import CropStream
from carrara.pretrain.metrics_log import read_metrics
from carrara.pretrain.recipes._base import Recipe, resolve
from carrara.pretrain.run import pretrain

SIZES = {"dim": 32, "num_layers": 2, "num_heads": 2, "ffn_dim": 32, "kernel": 5, "mask_vector": True}
STUDENTS = {
    "mel-conformer-tiny": {**SIZES, "conv_channels": (128, 32, 32)},
    "musicfm-tiny": {**SIZES, "channels": 4},
}
TARGETS = {
    "codes": {"target": "codes", "source": "random-projection", "num_codebooks": 1, "codebook_size": 16},
    "teacher": {"target": "teacher", "top_layers": 2},
}


def recipe(encoder, **changes):
    values = {
        "encoder": encoder,
        "network": STUDENTS.get(encoder, {}),
        "targets": TARGETS,
        "masking": {"mask_length": 3},
        "crop_seconds": 1.0,
        "batch": 2,
        "steps": 4,
        "checkpoint_every": 2,
        "log_every": 2,
    }
    return parse_settings(Recipe, values | changes, "test")


@pytest.fixture(scope="module", params=STUDENTS)
def run(request, corpus, tmp_path_factory):
    settings = recipe(request.param)
    return settings, pretrain(settings, corpus, tmp_path_factory.mktemp("run") / "whole", device="cpu")


@pytest.mark.slow
def test_a_conformer_trains_and_its_folder_loads(run):
    settings, folder = run
    encoder = carrara.load(folder)
    assert encoder.card.name == "whole" and not encoder.card.license and encoder.card.parameters
    initial = build_encoder(settings.encoder, settings.seed, settings.network.model_dump())
    moved = [name for name, value in encoder.named_parameters() if not torch.equal(value, initial.get_parameter(name))]
    assert {name.split(".")[0] for name in moved} >= {"conformer", "masked_spec_embed"}
    line = read_metrics(folder / "metrics.jsonl")[-1]
    assert line["attention_logit"] > 0 and line["rank/cnn"] > 1 and line["accuracy/codes"] >= 0


@pytest.mark.slow
def test_the_input_is_standardised_over_the_first_crops(run, corpus):
    settings, folder = run
    encoder = carrara.load(folder)
    stream = CropStream(build_corpus([corpus], 24_000, 24_000), 24_000, 960, 2, settings.seed)
    crops = torch.cat([batch.samples_BT for batch in stream.iter_batches(0, 128)])
    assert len(crops) == 256
    decibels = encoder.mel(crops).double().numpy()
    if settings.encoder == "musicfm-tiny":
        np.testing.assert_allclose(encoder.mel_mean, decibels.mean(), rtol=1e-5)
        np.testing.assert_allclose(encoder.mel_deviation, decibels.std(), rtol=1e-5)
    else:
        np.testing.assert_allclose(encoder.mel_mean, decibels.mean((0, 1)), rtol=1e-4)
        np.testing.assert_allclose(encoder.mel_std, np.maximum(decibels.std((0, 1)), 1), rtol=1e-4)
    values = encoder.spectrogram(crops)
    assert abs(float(values.mean())) < 0.01 and float(values.std()) == pytest.approx(1, abs=0.01)


@pytest.mark.slow
def test_a_conformer_resumes_bit_for_bit(run, corpus, tmp_path, before_optimiser_steps):
    settings, folder = run

    def interrupt(step):
        if step == 3:
            raise KeyboardInterrupt

    before_optimiser_steps(interrupt)
    with pytest.raises(KeyboardInterrupt):
        pretrain(settings, corpus, tmp_path / "part", device="cpu")
    pretrain(settings, corpus, tmp_path / "part", resume=True, device="cpu")
    whole, part = (load_file(each / "training" / "last.safetensors") for each in (folder, tmp_path / "part"))
    assert all(torch.equal(tensor, part[name]) for name, tensor in whole.items())


@pytest.mark.slow
def test_a_run_starts_from_a_conformer_of_the_same_shape_alone(run, corpus, tmp_path, initial_state):
    settings, folder = run
    state, _ = initial_state(settings, corpus, tmp_path / "same", folder)
    trained = load_file(folder / "training" / "last.safetensors")
    assert all(torch.equal(value, trained[f"model.{name}"]) for name, value in state.items())
    wider = {**STUDENTS[settings.encoder], "ffn_dim": 64}
    other = parse_settings(Recipe, settings.model_dump() | {"network": wider}, "test")
    with pytest.raises(UsageError, match="ffn_dim is 32 there and 64 here"):
        initial_state(other, corpus, tmp_path / "other", folder)
    with pytest.raises(UsageError, match="is no network of the recipe's kind"):
        initial_state(recipe("mert-tiny"), corpus, tmp_path / "hubert", folder)


@pytest.mark.slow
def test_encoders_without_frames_or_mask_vector_are_refused(corpus, tmp_path):
    network = {**STUDENTS["musicfm-tiny"], "mask_vector": False}
    without = recipe("musicfm-tiny", network=network, steps=1)
    with pytest.raises(UsageError, match="network.mask_vector=true, or .* masking.replacement=noise"):
        pretrain(without, corpus, tmp_path / "a")
    with pytest.raises(UsageError, match="no frames to mask"):
        pretrain(recipe("effnet-discogs"), corpus, tmp_path / "b")
    assert not list(tmp_path.iterdir())
    for cure in ({"network.mask_vector": True}, {"masking.replacement": "noise", "masking.blocks": True}):
        pretrain(replace(without, cure), corpus, tmp_path / str(len(cure)), device="cpu")


@pytest.mark.parametrize(
    ("name", "changes"),
    [("mert-v0", {}), ("mel-conformer-tiny", {}), ("musicfm-tiny", {}), ("maest-tiny", {"tokens": "frames"})],
)
def test_a_frame_depends_most_on_the_samples_around_its_centre(name, changes):
    encoder = build_encoder(name, changes=changes).eval()
    grid, frame = encoder.grid, 12
    samples = torch.randn(4, 24 * grid.hop, generator=torch.Generator().manual_seed(1)).requires_grad_()
    features = encoder.conv_features(samples)
    (gradient,) = torch.autograd.grad(features[:, frame].square().sum(), samples)
    weights = gradient.square().sum(0)
    centroid = float((weights * torch.arange(len(weights))).sum() / weights.sum())
    assert abs(centroid - (frame * grid.hop + grid.centre)) < grid.hop / 2
    assert encoder.card.frame_rate == grid.sample_rate / grid.hop


@pytest.fixture(scope="module")
def conformer():
    """Both targets of the recipes, noise in masked blocks, dropout, two micro-batches."""
    changes = {
        "network.conv_channels": (8, 16, 32),
        "network.dim": 32,
        "network.num_layers": 2,
        "network.num_heads": 2,
        "network.ffn_dim": 64,
        "network.dropout": 0.1,
        "targets.codes.codebook_size": 8,
        "masking.mask_length": 3,
        "crop_seconds": 1.0,
        "batch": 4,
        "accumulation_steps": 2,
        "steps": 6,
        "checkpoint_every": 3,
        "log_every": 2,
    }
    rvq = {"target": "codes", "source": "mel-rvq", "num_codebooks": 2, "codebook_size": 8, "learning_steps": 20}
    values = resolve("mel-conformer-random", "tiny", changes).model_dump()
    return parse_settings(Recipe, values | {"targets": values["targets"] | {"rvq": rvq}}, "test")


@pytest.fixture(scope="module")
def alone(conformer, corpus, tmp_path_factory):
    return pretrain(conformer, corpus, tmp_path_factory.mktemp("conformer") / "alone", device="cpu")


def weights(folder):
    return load_file(folder / "training" / "last.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"fsdp": True}, {"network.mask_vector": True}])
def test_two_processes_give_the_weights_of_one(changes, start_ranks, wait_for, conformer, corpus, alone, tmp_path):
    recipe = replace(conformer, changes)
    codes, messages = wait_for(start_ranks(recipe, corpus, tmp_path / "two"))
    assert codes == [0, 0], messages
    two = weights(tmp_path / "two")
    for name, tensor in weights(alone).items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.slow
def test_activation_checkpointing_changes_nothing_and_bfloat16_little(conformer, corpus, alone, tmp_path):
    checkpointed = pretrain(
        replace(conformer, {"activation_checkpointing": True}), corpus, tmp_path / "checkpointed", device="cpu"
    )
    assert all(torch.equal(tensor, weights(checkpointed)[name]) for name, tensor in weights(alone).items())
    half = pretrain(replace(conformer, {"precision": "bfloat16"}), corpus, tmp_path / "half", device="cpu")
    losses = [read_metrics(folder / "metrics.jsonl")[-1]["loss"] for folder in (alone, half)]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


@pytest.mark.slow
def test_linear_heads_are_taken_over_unless_the_head_is_another_kind(conformer, corpus, alone, tmp_path, initial_state):
    trained = weights(alone)
    state, _ = initial_state(conformer, corpus, tmp_path / "next", alone)
    assert all(torch.equal(value, trained[f"model.{name}"]) for name, value in state.items())
    other = replace(conformer, {"objective.head": "cosine"})
    initial_state(other, corpus, tmp_path / "other", alone)
    record = json.loads((tmp_path / "other" / "run.json").read_text())["initialization"]
    assert record["reinitialized"] == dict.fromkeys(("codes", "rvq"), "head was linear, now cosine")


@pytest.mark.slow
def test_a_trained_conformer_embeds_with_a_probe_while_it_trained(conformer, corpus, tmp_path):
    seen = []

    def probe(encoder):
        seen.append(encoder(torch.zeros(1, 24_000)).shape)
        return {"nothing": {"metric": "accuracy", "score": 0.0, "low": 0.0, "high": 0.0}}

    folder = pretrain(conformer, corpus, tmp_path / "run", device="cpu", probe=probe, probe_every=3)
    assert seen == [(1, 3, 24, 32)] * 3
    files = sorted(corpus.rglob("*.flac"))[:2]
    table = carrara.embed(files, str(folder))
    assert len(table) >= 2
