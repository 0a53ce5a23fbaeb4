"""Masked prediction trains any encoder of frames: HuBERT's shape, the conformers on mel spectrograms."""

import pytest
import torch
from safetensors.torch import load_file

import carrara
from carrara.core.errors import UsageError
from carrara.core.settings import parse_settings
from carrara.encoders._hub.load import build_encoder
from carrara.pretrain.metrics_log import read_metrics
from carrara.pretrain.recipes._base import Recipe
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


def test_encoders_without_frames_or_mask_vector_are_refused(corpus, tmp_path):
    network = {**STUDENTS["musicfm-tiny"], "mask_vector": False}
    with pytest.raises(UsageError, match="need mask_vector"):
        pretrain(recipe("musicfm-tiny", network=network), corpus, tmp_path / "a")
    with pytest.raises(UsageError, match="no frames to mask"):
        pretrain(recipe("effnet-discogs"), corpus, tmp_path / "b")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["mert-v0", "mel-conformer-tiny", "musicfm-tiny"])
def test_a_frame_depends_most_on_the_samples_around_its_centre(name):
    encoder = build_encoder(name).eval()
    grid, frame = encoder.grid, 12
    samples = torch.randn(4, 24 * grid.hop, generator=torch.Generator().manual_seed(1)).requires_grad_()
    features = encoder.conv_features(samples)
    (gradient,) = torch.autograd.grad(features[:, frame].square().sum(), samples)
    weights = gradient.square().sum(0)
    centroid = float((weights * torch.arange(len(weights))).sum() / weights.sum())
    assert abs(centroid - (frame * grid.hop + grid.centre)) < grid.hop / 2
    assert encoder.card.frame_rate == grid.sample_rate / grid.hop
