"""Short synthetic corpora, micro networks and ranks for the tests of pre-training."""

import itertools
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from carrara.core.settings import replace
from carrara.pretrain.distributed import Dist
from carrara.pretrain.recipes._base import resolve
from carrara.pretrain.run import build_run

ROOT = Path(__file__).parents[2]
RATE = 16_000
CHILD = """
import json, sys, time
from pathlib import Path
from torch.optim.optimizer import register_optimizer_step_pre_hook
from carrara.core.settings import parse_settings
from carrara.pretrain.run import OBJECTIVES, pretrain
register_optimizer_step_pre_hook(lambda *arguments: time.sleep(float(sys.argv[4])))
kind = next(kind for kind in OBJECTIVES if kind.__name__ == sys.argv[5])
recipe = parse_settings(kind, json.loads(Path(sys.argv[1]).read_text()), "test")
pretrain(recipe, sys.argv[2], sys.argv[3], resume=True, device="cpu")
"""
MICRO = {
    "network.conv_channels": 16,
    "network.dim": 32,
    "network.num_layers": 2,
    "network.num_heads": 2,
    "network.ffn_dim": 64,
    "network.position_groups": 4,
    "network.dropout": 0.1,
    "targets.log-mel.k": 8,
    "targets.log-mel.fraction": 1.0,
    "targets.chroma.k": 6,
    "targets.chroma.fraction": 1.0,
    "targets.cqt.bins": 84,
    "targets.cqt.bins_per_octave": 12,
    "crop_seconds": 1.0,
    "batch": 4,
    "steps": 12,
    "checkpoint_every": 4,
    "log_every": 2,
}


def render_melody(seconds, seed):
    """Return tones of random pitch, a quarter of a second each, with clicks and a little noise."""
    rng = np.random.default_rng(seed)
    quarter = RATE // 4
    time = np.arange(quarter) / RATE
    notes = []
    for _ in range(int(np.ceil(4 * seconds))):
        pitch = 110.0 * 2 ** (rng.integers(36) / 12)
        note = sum(np.sin(2 * np.pi * pitch * h * time) / h for h in range(1, 5)) * np.exp(-4 * time)
        notes.append(0.2 * rng.uniform(0.3, 1) * note)
    return (np.concatenate(notes) + 0.003 * rng.normal(size=quarter * len(notes)))[: int(seconds * RATE)]


@pytest.fixture(scope="session")
def melody():
    """(seconds, seed) → samples at 16 kHz."""
    return render_melody


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A folder of ten readable files of two to four seconds."""
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(10):
        (folder / f"{number % 3}").mkdir(exist_ok=True)
        soundfile.write(folder / f"{number % 3}" / f"{number}.flac", render_melody(2 + number / 5, number), RATE)
    return folder


@pytest.fixture(scope="session")
def micro():
    """MERT-v0's tiny scale, smaller still."""
    return resolve("mert-v0", "tiny", MICRO)


@pytest.fixture(scope="session")
def two_steps(micro):
    """Two label sets and a CQT, two steps."""
    return replace(micro, {"steps": 2, "checkpoint_every": 1, "batch": 2, "network.num_layers": 1})


@pytest.fixture(scope="session")
def initial_state():
    """(recipe, corpus, folder, start) → the weights of a run before its first step, and its targets."""

    def build(recipe, corpus, folder, start=""):
        run = build_run(recipe, [corpus], folder, False, Dist(device=torch.device("cpu")), str(start))
        run.log.close()
        return run.objective.module.state_dict(), run.objective.targets

    return build


@pytest.fixture
def before_optimiser_steps():
    """(function) → the function is called with the number of each optimiser step, from 1, before it."""
    handles = []

    def register(function):
        count = itertools.count(1)
        handles.append(register_optimizer_step_pre_hook(lambda *arguments: function(next(count))))

    yield register
    for handle in handles:
        handle.remove()


@pytest.fixture(scope="session")
def start_ranks():
    """(recipe, corpus, folder) → two processes that train together, or torchrun as their parent."""

    def start(recipe, corpus, folder, pause=0.0, launcher=False):
        folder.parent.mkdir(exist_ok=True, parents=True)
        path, script = folder.parent / f"{folder.name}.json", folder.parent / "child.py"
        path.write_text(recipe.model_dump_json())
        script.write_text(CHILD)
        arguments = [str(script), str(path), str(corpus), str(folder), str(pause), type(recipe).__name__]
        options = {"cwd": ROOT, "stderr": subprocess.PIPE, "text": True}
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        if launcher:
            torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
            return [subprocess.Popen([*torchrun, *arguments], env=environment, **options)]
        own = {**environment, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        return [
            subprocess.Popen(
                [sys.executable, *arguments], env={**own, "RANK": str(rank), "LOCAL_RANK": str(rank)}, **options
            )
            for rank in range(2)
        ]

    return start


@pytest.fixture(scope="session")
def wait_for():
    """(processes) → their exit codes and what they wrote to stderr, once all have ended."""

    def wait(children, seconds=120):
        try:
            messages = [child.communicate(timeout=seconds)[1] for child in children]
        finally:
            for child in children:
                child.kill()
        return [child.returncode for child in children], messages

    return wait
