"""Two processes do what one does; a killed one does not hang the other; any number goes on where another stopped."""

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
from carrara.pretrain.metrics_log import read
from carrara.pretrain.run import pretrain

ROOT = Path(__file__).parents[2]
# Two parts in either case, so that even dropout is the same.
TWO = {"accumulation_steps": 2, "steps": 6, "checkpoint_every": 2, "log_every": 1}
CHILD = """
import json, sys, time
from pathlib import Path
from carrara.pretrain import loop, run
from carrara.pretrain.recipes._base import Recipe
from carrara.core.settings import read
step = loop._step
def slow(*arguments):
    time.sleep(float(sys.argv[4]))
    return step(*arguments)
loop._step = slow
recipe = read(Recipe, json.loads(Path(sys.argv[1]).read_text()), "test")
run.pretrain(recipe, sys.argv[2], sys.argv[3], resume=True, device="cpu")
"""


def started(recipe, corpus, folder, pause=0.0, launcher=False):
    """Return two processes that train together, or torchrun with them below it."""
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


def ended(children, seconds=120):
    """Wait for all, and return their exit codes and what they said."""
    try:
        said = [child.communicate(timeout=seconds)[1] for child in children]
    finally:
        for child in children:
            child.kill()
    return [child.returncode for child in children], said


@pytest.fixture(scope="module")
def recipe(micro):
    return replace(micro, TWO)


@pytest.fixture(scope="module")
def alone(recipe, corpus, tmp_path_factory):
    return pretrain(recipe, corpus, tmp_path_factory.mktemp("runs") / "alone", device="cpu")


def same(folder, other, tolerance):
    losses = [[line["loss"] for line in read(each / "journal.jsonl")] for each in (folder, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6) and len(losses[0]) == 6
    one, two = (load_file(each / "training" / "last.safetensors") for each in (folder, other))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, two[name], rtol=1e-4, atol=tolerance, msg=name)


def test_torchrun_with_two_processes_gives_the_losses_and_weights_of_one(recipe, corpus, alone, tmp_path):
    codes, said = ended(started(recipe, corpus, tmp_path / "two", launcher=True))
    assert codes == [0], said
    same(tmp_path / "two", alone, 1e-6)


def test_sharded_weights_give_the_losses_and_weights_of_one(recipe, corpus, alone, tmp_path):
    import carrara

    codes, said = ended(started(replace(recipe, {"fsdp": True}), corpus, tmp_path / "two"))
    assert codes == [0, 0], said
    same(tmp_path / "two", alone, 1e-5)
    trained = load_file(tmp_path / "two" / "training" / "last.safetensors")
    for name, tensor in carrara.load(tmp_path / "two").state_dict().items():
        assert torch.equal(tensor, trained[f"model.encoder.{name}"])


def test_a_killed_rank_does_not_hang_the_other_and_one_process_goes_on(recipe, corpus, alone, tmp_path):
    folder = tmp_path / "two"
    children = started(recipe, corpus, folder, pause=0.1)
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and len(read(folder / "journal.jsonl")) < 3:
        assert children[0].poll() is None
        time.sleep(0.02)
    children[1].send_signal(signal.SIGKILL)
    codes, said = ended(children, 30)
    assert codes[0] == 1 and codes[1] == -signal.SIGKILL
    assert "rank 0: another rank is gone" in said[0] and "with --resume" in said[0]
    assert len(read(folder / "journal.jsonl")) < 6
    assert json.loads((folder / "run.json").read_text())["recipe"]["parts"] == 2
    pretrain(recipe, corpus, folder, resume=True, device="cpu")
    same(folder, alone, 1e-6)


def test_what_the_first_rank_cannot_do_is_told_once(recipe, corpus, alone):
    other = replace(recipe, {"masking.mask_length": 3})
    codes, said = ended(started(other, corpus, alone))
    assert codes == [1, 1]
    assert "another recipe: masking.mask_length was 5, now 3" in said[0]
    assert "another recipe" not in said[1]
