"""A tagger on two ranks, in micro-batches, sharded, in half precision, probed, or started from another tagger."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from carrara.core.errors import UsageError
from carrara.core.settings import replace
from carrara.encoders._hub.load import load
from carrara.pretrain.metrics_log import read_metrics, read_probes
from carrara.pretrain.run import pretrain

SCORE = {"score": 0.5, "low": 0.25, "high": 0.75, "metric": "accuracy", "seconds": 0.1}


@pytest.fixture(scope="module")
def recipe(micro):
    """Epochs of 11 clips: batches of 4, 4 and 3, which two ranks and three micro-batches divide unevenly."""
    return micro(epoch_clips=11)


@pytest.fixture(scope="module")
def alone(recipe, labelled, tmp_path_factory):
    return pretrain(recipe, labelled, tmp_path_factory.mktemp("runs") / "alone", device="cpu")


def assert_close(folder, other, tolerance=1e-5):
    lines = [read_metrics(each / "metrics.jsonl") for each in (folder, other)]
    for key in ("loss", "valid/average_precision", "swa/roc_auc"):
        values = [[line[key] for line in each if key in line] for each in lines]
        assert values[0] == pytest.approx(values[1], rel=1e-5) and values[0]
    for name in ("model.safetensors", "last/model.safetensors", "training/last.safetensors"):
        first, second = load_file(folder / name), load_file(other / name)
        assert first.keys() == second.keys()
        for key, tensor in first.items():
            torch.testing.assert_close(tensor, second[key], rtol=1e-4, atol=tolerance, msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [False, True])
def test_two_ranks_do_what_one_process_does(start_ranks, wait_for, recipe, labelled, alone, tmp_path, fsdp):
    codes, messages = wait_for(start_ranks(replace(recipe, {"fsdp": fsdp}), labelled, tmp_path / "two"))
    assert codes == [0, 0], messages
    assert_close(tmp_path / "two", alone)


@pytest.mark.slow
def test_one_process_goes_on_with_the_checkpoint_of_two_ranks(start_ranks, wait_for, recipe, labelled, alone, tmp_path):
    codes, messages = wait_for(start_ranks(recipe, labelled, tmp_path / "two"))
    assert codes == [0, 0], messages
    training = tmp_path / "two" / "training"
    (training / "previous.safetensors").replace(training / "last.safetensors")
    pretrain(recipe, labelled, tmp_path / "two", resume=True, device="cpu")
    assert_close(tmp_path / "two", alone)


def test_micro_batches_and_activation_checkpointing_change_nothing(recipe, labelled, alone, tmp_path):
    changes = {"accumulation_steps": 3, "activation_checkpointing": True}
    assert_close(pretrain(replace(recipe, changes), labelled, tmp_path / "run", device="cpu"), alone)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_learns_what_single_precision_does(precision, recipe, labelled, alone, tmp_path):
    half = replace(recipe, {"precision": precision, "loss_scale.initial": 128.0})
    folder = pretrain(half, labelled, tmp_path / "run", device="cpu")
    lines, single = (read_metrics(each / "metrics.jsonl") for each in (folder, alone))
    assert [line["loss"] for line in lines] == pytest.approx([line["loss"] for line in single], rel=0.02)
    assert ("loss_scale" in lines[0]) == (precision == "float16")


@pytest.mark.slow
def test_a_probe_gets_what_the_folder_holds_and_changes_nothing(recipe, labelled, alone, tmp_path):
    probed = []

    def probe(encoder):
        probed.append({name: tensor.clone() for name, tensor in encoder.state_dict().items()})
        torch.rand(3), np.random.rand(3)  # noqa: NPY002 - a user's own code may
        return {"mine": SCORE}

    folder = pretrain(recipe, labelled, tmp_path / "run", probe=probe, probe_every=5, device="cpu")
    assert [line["step"] for line in read_probes(folder / "metrics.jsonl")] == [0, 5, 10, 12]
    ours, theirs = load(folder).state_dict(), load(alone).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert all(torch.equal(ours[name], probed[-1][name]) for name in ours)


def test_it_starts_from_a_tagger(recipe, labelled, alone, tmp_path):
    short = replace(recipe, {"steps": 1, "optimiser.learning_rate": 1e-12})
    folder = pretrain(short, labelled, tmp_path / "run", start=alone, device="cpu")
    ours, theirs = load(folder).state_dict(), load(alone).state_dict()
    assert all(torch.allclose(ours[name], theirs[name]) for name in ours if not name.startswith("head"))
    assert not torch.equal(ours["head.1.weight"], theirs["head.1.weight"])
    assert json.loads((folder / "run.json").read_text())["initialization"]["from"] == str(alone)
    assert f"initial weights: {alone}" in (folder / "README.md").read_text()
    assert pretrain(short, labelled, folder, start=alone, resume=True, device="cpu") == folder
    with pytest.raises(UsageError, match="is not of the kind that is trained"):
        pretrain(short, labelled, tmp_path / "x", start="noise", device="cpu")
    assert not (tmp_path / "x").exists()
