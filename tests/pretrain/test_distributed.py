"""Two processes do what one does; a killed one does not hang the other; any number resumes."""

import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from carrara.core.errors import UsageError
from carrara.core.settings import parse_settings, replace
from carrara.pretrain.metrics_log import read_metrics
from carrara.pretrain.run import pretrain

pytestmark = pytest.mark.slow

# Two micro-batches in either case, so that even dropout is the same.
TWO = {"accumulation_steps": 2, "steps": 6, "checkpoint_every": 2, "log_every": 1}


@pytest.fixture(scope="module")
def recipe(micro):
    return replace(micro, TWO)


@pytest.fixture(scope="module")
def alone(recipe, corpus, tmp_path_factory):
    return pretrain(recipe, corpus, tmp_path_factory.mktemp("runs") / "alone", device="cpu")


def assert_same(folder, other, tolerance):
    losses = [[line["loss"] for line in read_metrics(each / "metrics.jsonl")] for each in (folder, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6) and len(losses[0]) == 6
    first, second = (load_file(each / "training" / "last.safetensors") for each in (folder, other))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=1e-4, atol=tolerance, msg=name)


def test_torchrun_with_two_processes_gives_the_losses_and_weights_of_one(micro_changes, corpus, alone, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = ["-m", "carrara", "pretrain", "mert-v0", "--scale", "tiny", "--device", "cpu", "-c", corpus]
    changes = [word for name, value in {**micro_changes, **TWO}.items() for word in ("--set", f"{name}={value}")]
    done = subprocess.run([*torchrun, *command, *changes, "-o", tmp_path / "two"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "two", alone, 1e-6)
    # Each rank decodes its part of the sample; the clusters are bit for bit those of one process.
    for name in ("log-mel", "chroma"):
        ours, theirs = (load_file(each / "targets" / f"{name}.safetensors") for each in (tmp_path / "two", alone))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
        reports = [(each / "targets" / f"{name}.json").read_text() for each in (tmp_path / "two", alone)]
        assert reports[0] == reports[1]


def test_sharded_weights_give_the_losses_and_weights_of_one(start_ranks, wait_for, recipe, corpus, alone, tmp_path):
    import carrara

    codes, messages = wait_for(start_ranks(replace(recipe, {"fsdp": True}), corpus, tmp_path / "two"))
    assert codes == [0, 0], messages
    assert_same(tmp_path / "two", alone, 1e-5)
    trained = load_file(tmp_path / "two" / "training" / "last.safetensors")
    for name, tensor in carrara.load(tmp_path / "two").state_dict().items():
        assert torch.equal(tensor, trained[f"model.encoder.{name}"])


def test_a_killed_rank_does_not_hang_the_other_and_one_process_goes_on(
    start_ranks, wait_for, recipe, corpus, alone, tmp_path
):
    folder = tmp_path / "two"
    ranks = start_ranks(recipe, corpus, folder, gate=tmp_path / "gate")
    while len(read_metrics(folder / "metrics.jsonl")) < 3:
        assert ranks[0].process.is_alive()
        time.sleep(0.02)
    ranks[1].process.kill()
    ranks[1].process.join()
    (tmp_path / "gate").touch()
    codes, messages = wait_for(ranks)
    # Seen once in some forty kills: PyTorch aborts the process while it is torn down, after the message.
    assert codes[0] in (1, -signal.SIGABRT) and codes[1] == -signal.SIGKILL, messages[0]
    assert "rank 0: another rank is gone" in messages[0] and "with --resume" in messages[0]
    assert len(read_metrics(folder / "metrics.jsonl")) < 6
    assert json.loads((folder / "run.json").read_text())["recipe"]["accumulation_steps"] == 2
    pretrain(recipe, corpus, folder, resume=True, device="cpu")
    assert_same(folder, alone, 1e-6)


def test_a_target_that_cannot_be_fitted_is_reported_once_and_no_rank_waits(
    start_ranks, wait_for, recipe, corpus, tmp_path
):
    other = replace(recipe, {"targets.chroma.k": 5000})
    codes, messages = wait_for(start_ranks(other, corpus, tmp_path / "two"))
    assert codes == [1, UsageError.exit_code]
    assert "5000 clusters need at least" in messages[0] and "5000 clusters" not in messages[1]
    assert not (tmp_path / "two").exists()


def test_a_batch_that_does_not_give_each_rank_a_crop_is_refused_once(start_ranks, wait_for, recipe, corpus, tmp_path):
    codes, messages = wait_for(start_ranks(replace(recipe, {"batch": 1}), corpus, tmp_path / "two"))
    assert codes == [1, UsageError.exit_code]
    line = "batch 1 is less than one crop for each of 2 ranks; give --set batch=2"
    assert line in messages[0] and "batch 1" not in messages[1]


def test_a_batch_that_does_not_divide_is_shared_unevenly(start_ranks, wait_for, recipe, corpus, tmp_path):
    odd = replace(recipe, {"batch": 5, "network.dropout": 0.0})
    pretrain(odd, corpus, tmp_path / "alone", device="cpu")
    codes, messages = wait_for(start_ranks(odd, corpus, tmp_path / "two"))
    assert codes == [0, 0], messages
    assert_same(tmp_path / "two", tmp_path / "alone", 1e-5)


def test_an_error_of_rank_0_is_reported_once(start_ranks, wait_for, recipe, corpus, alone):
    other = replace(recipe, {"masking.mask_length": 3})
    codes, messages = wait_for(start_ranks(other, corpus, alone))
    assert codes == [1, 1]
    assert "another recipe: masking.mask_length was 5, now 3" in messages[0]
    assert "another recipe" not in messages[1]


def test_layers_and_codebooks_without_a_part_in_a_step_do_not_disturb_the_ranks(
    start_ranks, wait_for, micro, corpus, tmp_path
):
    """LayerDrop, one random codebook a step, labels of whole files."""
    codes = {
        "target": "codes", "source": "random-projection", "num_codebooks": 3, "codebook_size": 8, "use": "random",
        "whole_files": True,
    }  # fmt: skip
    changes = {**TWO, "network.layerdrop": 0.4}
    values = replace(micro, changes).model_dump() | {"targets": {"codes": codes}}
    recipe = parse_settings(type(micro), values, "test")
    alone = pretrain(recipe, corpus, tmp_path / "alone", device="cpu")
    exit_codes, messages = wait_for(start_ranks(recipe, corpus, tmp_path / "two"))
    assert exit_codes == [0, 0], messages
    assert_same(tmp_path / "two", alone, 1e-5)
    labels = tmp_path / "two" / "labels" / "codes"
    own = [[json.loads(line)["id"] for line in (labels / name).read_text().splitlines()[1:]]
           for name in ("index.jsonl", "index-1.jsonl")]  # fmt: skip
    assert [len(ids) for ids in own] == [5, 5]
    stored = (alone / "labels" / "codes" / "index.jsonl").read_text().splitlines()[1:]
    assert {*own[0], *own[1]} == {json.loads(line)["id"] for line in stored}
