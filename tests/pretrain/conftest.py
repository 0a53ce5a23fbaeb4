"""Short synthetic corpora, micro networks and ranks for the tests of pre-training."""

import itertools
import multiprocessing
import os
import socket
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
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

RATE = 16_000
# Other processes are forked from one that has imported what takes each of them five seconds.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "carrara.pretrain.run",
        "carrara.cli._main",
        "matplotlib.pyplot",
        "pandas",
        "torch.onnx",
        "torch.utils.tensorboard",
    ]
)
FORKED = """
import os, torch
os.environ.clear()
os.environ.update(environment)
os.dup2(os.open(messages, os.O_WRONLY | os.O_CREAT), 2)
torch.set_num_threads(1)

import carrara.pretrain.run
carrara.pretrain.run.plot_log = lambda folder: None
"""
RANK = """
import itertools, json, time
from pathlib import Path
from torch.optim.optimizer import register_optimizer_step_pre_hook
from carrara.core.settings import parse_settings
from carrara.pretrain.run import OBJECTIVES, pretrain

recipe, kind, corpus, folder, gate = arguments
steps = itertools.count(1)

def wait_in_step_4(*_):
    is_step_4 = next(steps) == 4
    while is_step_4 and not Path(gate).exists():
        time.sleep(0.02)

if gate:
    register_optimizer_step_pre_hook(wait_in_step_4)
kind = next(each for each in OBJECTIVES if each.__name__ == kind)
pretrain(parse_settings(kind, json.loads(recipe), "test"), corpus, folder, resume=True, device="cpu")
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


@pytest.fixture(scope="module", autouse=True)
def no_picture():
    """Runs leave out the picture of their log, which takes a second each; tests/cli/test_pretrain.py has it drawn."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("run", "probes"):
            patch.setattr(f"carrara.pretrain.{module}.plot_log", lambda folder: None)
        yield


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
def micro_changes():
    """The settings by which `micro` differs from MERT-v0's tiny scale."""
    return MICRO


@dataclass
class Forked:
    """A process and the file that it writes to stderr."""

    process: BaseProcess
    messages: Path


@pytest.fixture(scope="session")
def fork(tmp_path_factory):
    """(code, arguments, environment) → a process that runs the code, in which `arguments` are those."""

    def start(code, arguments, **environment):
        messages = tmp_path_factory.mktemp("forked") / "stderr.txt"
        values = {"arguments": arguments, "environment": {**os.environ, **environment}, "messages": str(messages)}
        forked = Forked(FORKS.Process(target=exec, args=(FORKED + code, values)), messages)
        forked.process.start()
        return forked

    return start


@pytest.fixture(scope="session")
def fork_ranks(fork):
    """(code, arguments) → two processes that torchrun would have given the ranks 0 and 1."""

    def start(code, arguments):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        return [fork(code, arguments, WORLD_SIZE="2", RANK=rank, LOCAL_RANK=rank, **address) for rank in "01"]

    return start


@pytest.fixture(scope="session")
def start_ranks(fork_ranks):
    """(recipe, corpus, folder) → two processes that train together; with a gate, their fourth step waits for it."""

    def start(recipe, corpus, folder, gate=""):
        arguments = [recipe.model_dump_json(), type(recipe).__name__, str(corpus), str(folder), str(gate)]
        return fork_ranks(RANK, arguments)

    return start


@pytest.fixture(scope="session")
def wait_for():
    """(processes) → their exit codes and what they wrote to stderr, once all have ended."""

    def wait(forked, seconds=300):
        for each in forked:
            each.process.join(seconds)
        codes = [each.process.exitcode for each in forked]
        for each in forked:
            each.process.kill()
        return codes, [each.messages.read_text() for each in forked]

    return wait
