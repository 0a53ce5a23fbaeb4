"""Two processes do what one does; a killed one does not hang the other; any number resumes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from carrara.core.settings import replace
from carrara.pretrain.metrics_log import read_metrics
from carrara.pretrain.run import pretrain

ROOT = Path(__file__).parents[2]
# Two micro-batches in either case, so that even dropout is the same.
TWO = {"accumulation_steps": 2, "steps": 6, "checkpoint_every": 2, "log_every": 1}
CHILD = """
import json, sys, time
from pathlib import Path
from torch.optim.optimizer import register_optimizer_step_pre_hook
from carrara.core.settings import parse_settings
from carrara.pretrain.recipes._base import Recipe
from carrara.pretrain.run import pretrain
register_optimizer_step_pre_hook(lambda *arguments: time.sleep(float(sys.argv[4])))
recipe = parse_settings(Recipe, json.loads(Path(sys.argv[1]).read_text()), "test")
pretrain(recipe, sys.argv[2], sys.argv[3], resume=True, device="cpu")
"""


def start(recipe, corpus, folder, pause=0.0, launcher=False):
    """Return two processes that train together, or torchrun as their parent."""
    folder.parent.mkdir(exist_ok=True, parents=True)
    path, script = folder.parent / f"{folder.name}.json", folder.parent / "child.py"
    path.write_text(recipe.model_dump_json())
    script.write_text(CHILD)
    arguments = [str(script), str(path), str(corpus), str(folder), str(pause)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if launcher:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
        return [subprocess.Popen([*torchrun, *arguments], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)]
    own = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**environment, **own, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def wait(children, seconds=120):
    """Wait for all, and return their exit codes and what they wrote to stderr."""
    try:
        messages = [child.communicate(timeout=seconds)[1] for child in children]
    finally:
        for child in children:
            child.kill()
    return [child.returncode for child in children], messages


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


def test_torchrun_with_two_processes_gives_the_losses_and_weights_of_one(recipe, corpus, alone, tmp_path):
    codes, messages = wait(start(recipe, corpus, tmp_path / "two", launcher=True))
    assert codes == [0], messages
    assert_same(tmp_path / "two", alone, 1e-6)


def test_sharded_weights_give_the_losses_and_weights_of_one(recipe, corpus, alone, tmp_path):
    import carrara

    codes, messages = wait(start(replace(recipe, {"fsdp": True}), corpus, tmp_path / "two"))
    assert codes == [0, 0], messages
    assert_same(tmp_path / "two", alone, 1e-5)
    trained = load_file(tmp_path / "two" / "training" / "last.safetensors")
    for name, tensor in carrara.load(tmp_path / "two").state_dict().items():
        assert torch.equal(tensor, trained[f"model.encoder.{name}"])


def test_a_killed_rank_does_not_hang_the_other_and_one_process_goes_on(recipe, corpus, alone, tmp_path):
    folder = tmp_path / "two"
    children = start(recipe, corpus, folder, pause=0.1)
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and len(read_metrics(folder / "metrics.jsonl")) < 3:
        assert children[0].poll() is None
        time.sleep(0.02)
    children[1].send_signal(signal.SIGKILL)
    codes, messages = wait(children, 30)
    assert codes[0] == 1 and codes[1] == -signal.SIGKILL
    assert "rank 0: another rank is gone" in messages[0] and "with --resume" in messages[0]
    assert len(read_metrics(folder / "metrics.jsonl")) < 6
    assert json.loads((folder / "run.json").read_text())["recipe"]["accumulation_steps"] == 2
    pretrain(recipe, corpus, folder, resume=True, device="cpu")
    assert_same(folder, alone, 1e-6)


def test_an_error_of_rank_0_is_reported_once(recipe, corpus, alone):
    other = replace(recipe, {"masking.mask_length": 3})
    codes, messages = wait(start(other, corpus, alone))
    assert codes == [1, 1]
    assert "another recipe: masking.mask_length was 5, now 3" in messages[0]
    assert "another recipe" not in messages[1]
