"""A run that is killed (SIGKILL) at any rename of a save ends, resumed, as the encoder of an uninterrupted run."""

import json
import os
import shutil
from pathlib import Path

import pytest
import soundfile
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from carrara.cli._main import app
from carrara.core.io import DRAFT_PREFIX
from carrara.pretrain.recipes._base import resolve
from carrara.pretrain.run import pretrain

pytestmark = pytest.mark.slow

ENCODER = {
    "network.conv_channels": 16,
    "network.dim": 32,
    "network.num_layers": 2,
    "network.num_heads": 2,
    "network.ffn_dim": 64,
    "network.position_groups": 4,
    "crop_seconds": 1.0,
}
CQT = {"targets.cqt.bins": 84, "targets.cqt.bins_per_octave": 12}
CODEC = {"filters": 4, "latent": 16, "num_codebooks": 4, "codebook_size": 32}
RECIPES = {
    "mert-v0": {**ENCODER, **CQT, "targets.log-mel.k": 8, "targets.chroma.k": 6, "steps": 2},
    "rvq-vae": {**{f"network.{name}": value for name, value in CODEC.items()}, "crop_seconds": 0.2, "steps": 2},
    "m2d": {
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
        "steps": 2,
    },
    "maest-5s": {
        "network.frames": 96,
        "network.dim": 32,
        "network.num_layers": 2,
        "network.num_heads": 2,
        "network.ffn_dim": 64,
        "crop_seconds": 1.536,
        "patchout": 3,
        "epoch_clips": 4,
        "epochs": 2,
        "optimiser.warmup_epochs": 1,
        "swa.first": 1,
        "swa.every": 1,
        "validate_every": 2,
    },
}
STEPS = {"batch": 4, "checkpoint_every": 1, "log_every": 1}


@pytest.fixture(scope="module")
def tagged(melody, tmp_path_factory):
    """A folder of eight melodies with tags, four to train and four to validate on."""
    folder = tmp_path_factory.mktemp("tagged")
    rows = ["path,split,tags[]"]
    for number in range(8):
        soundfile.write(folder / f"{number}.wav", melody(1.6, number), 16_000)
        rows.append(
            f"{number}.wav,{'train' if number < 4 else 'valid'},{'odd' if number % 2 else 'even'};all{number % 4}"
        )
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


def encoder_weights(folder):
    """Return the tensors that the folder is used with, of each model in it."""
    return {path.parent.relative_to(folder): load_file(path) for path in folder.rglob("model.safetensors")}


def assert_same(folder, other):
    actual, expected = encoder_weights(folder), encoder_weights(other)
    assert actual.keys() == expected.keys() and expected
    for name in expected:
        assert actual[name].keys() == expected[name].keys()
        assert not [key for key in expected[name] if not torch.equal(actual[name][key], expected[name][key])]
        config, truth = (json.loads((root / name / "config.json").read_text()) for root in (folder, other))
        assert config.get("card", {}).get("weights_sha256") == truth.get("card", {}).get("weights_sha256")
    assert not list(folder.rglob(f"{DRAFT_PREFIX}*"))


def resume_by_command(name, sounds, folder):
    arguments = ["pretrain", name, "--scale", "tiny", "-c", sounds, "-o", folder, "--device", "cpu", "--resume"]
    for key, value in (RECIPES[name] | STEPS).items():
        arguments += ["--set", f"{key}={value}"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    assert "step 2" in result.stdout


@pytest.mark.parametrize("name", RECIPES)
def test_killed_at_any_rename_it_ends_as_the_same_encoder(name, corpus, tagged, tmp_path, monkeypatch):
    sounds, recipe = (tagged if name == "maest-5s" else corpus), resolve(name, "tiny", RECIPES[name] | STEPS)
    whole, kills = tmp_path / "whole", tmp_path / "kills"
    replace = os.replace

    def copied(source, target):
        # What SIGKILL leaves is what is on the disk: nothing is cleaned up, and the draft is no longer locked.
        shutil.copytree(whole, kills / f"{len(list(kills.iterdir())):02d} {Path(target).name}" / "whole")
        replace(source, target)

    kills.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", copied)
        pretrain(recipe, sounds, whole, device="cpu")
    names = [kill.name[3:] for kill in sorted(kills.iterdir())]
    assert names.count("last.safetensors") == 2 and names.count("previous.safetensors") == 1
    assert names.index("last.safetensors") < names.index("model.safetensors")
    assert any(kill.rglob(f"{DRAFT_PREFIX}*") for kill in kills.iterdir())
    # In the first save, between checkpoint and encoder; and anywhere in the last, after which nothing is left to train.
    last = names.index("last.safetensors", names.index("last.safetensors") + 1)
    for number in (names.index("model.safetensors"), *range(last, len(names))):
        kill = kills / f"{number:02d} {names[number]}"
        resume_by_command(name, sounds, kill / "whole")
        assert_same(kill / "whole", whole)
    stamps = {path: path.stat().st_mtime_ns for path in whole.rglob("*.safetensors")}
    resume_by_command(name, sounds, whole)
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*.safetensors")} == stamps
