"""Probes during training do not change it by a bit, whatever they do and whenever they are stopped."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from safetensors.torch import load_file

import carrara
from carrara.core.errors import DataError, UsageError
from carrara.core.progress import progress
from carrara.core.settings import parse_settings, replace
from carrara.pretrain.log_plot import plot_log
from carrara.pretrain.metrics_log import read_events, read_metrics, read_probes
from carrara.pretrain.run import pretrain

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SCORE = {"score": 0.5, "low": 0.25, "high": 0.75, "metric": "accuracy", "seconds": 0.1}


@pytest.fixture(scope="module")
def short(micro):
    """Five steps, probed at 0, 2, 4 and 5; checkpoints at 2, 4 and 5, log lines at 2 to 5."""
    few = {"steps": 5, "checkpoint_every": 2, "log_every": 3, "batch": 2, "network.num_layers": 1}
    values = replace(micro, few).model_dump()
    return parse_settings(type(micro), values | {"targets": {"chroma": values["targets"]["chroma"]}}, "test")


@pytest.fixture(scope="module")
def plain(short, corpus, tmp_path_factory):
    """The run without probes."""
    return pretrain(short, corpus, tmp_path_factory.mktemp("runs") / "x", device="cpu")


def careless(encoder):
    """Do everything that could disturb the training."""
    torch.manual_seed(1), np.random.seed(2), random.seed(3)  # noqa: NPY002 - a user's own code may
    torch.rand(5), np.random.rand(5), random.random()  # noqa: NPY002
    torch.set_num_threads(2)
    torch.set_grad_enabled(False)
    with progress("a second bar", 3) as advance:
        advance()
    with torch.no_grad():
        for parameter in encoder.train().parameters():
            parameter.zero_()
    return {"mine": SCORE}


def assert_same(folder, other):
    assert_same_weights(folder, other)
    clock = ("seconds", "audio_hours_per_hour", "flops_per_second", "data_wait_fraction", "eta_seconds")
    lines = [[{k: v for k, v in line.items() if k not in clock} for line in read_metrics(each / "metrics.jsonl")]
             for each in (folder, other)]  # fmt: skip
    assert lines[0] == lines[1]


def steps(folder):
    return [line["step"] for line in read_probes(folder / "metrics.jsonl")]


def test_a_careless_probe_changes_no_bit(short, corpus, plain, tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_PROGRESS", "1")
    threads, gradients = torch.get_num_threads(), torch.is_grad_enabled()
    folder = pretrain(short, corpus, tmp_path / "x", device="cpu", probe=careless, probe_every=2)
    assert_same(folder, plain)
    assert steps(folder) == [0, 2, 4, 5] and not read_probes(plain / "metrics.jsonl")
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == (threads, gradients)
    assert os.environ["CARRARA_PROGRESS"] == "1"
    assert read_probes(folder / "metrics.jsonl")[1]["probes"] == {"mine": SCORE}
    assert "| mine | accuracy | 0.500 [0.250, 0.750] |" in (folder / "README.md").read_text()


def test_the_encoder_probed_is_that_of_the_step(short, corpus, tmp_path):
    calls = []

    def probe(encoder):
        samples_BT = torch.linspace(-1, 1, 16_000)[None]
        calls.append((encoder.training, encoder.card.weights_sha256, encoder(samples_BT)))
        return {"mine": SCORE}

    folder = pretrain(short, corpus, tmp_path / "x", device="cpu", probe=probe, probe_every=4)
    trained = carrara.load(folder)
    assert [training for training, _, _ in calls] == [False, False, False]
    assert len({weights for _, weights, _ in calls}) == 3
    assert calls[-1][1] == trained.card.weights_sha256
    torch.testing.assert_close(calls[-1][2], trained(torch.linspace(-1, 1, 16_000)[None]))


@pytest.mark.parametrize("at", [0, 2, 5])
def test_ctrl_c_in_a_probe_loses_nothing(at, short, corpus, plain, tmp_path, before_optimiser_steps):
    taken = []
    before_optimiser_steps(taken.append)

    def stopped(encoder):
        if len(taken) == at:
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("a probe ends at once")
        return {"mine": SCORE}

    with pytest.raises(KeyboardInterrupt):
        pretrain(short, corpus, tmp_path / "x", device="cpu", probe=stopped, probe_every=2)
    before = [0, 2, 4, 5]
    assert steps(tmp_path / "x") == before[: before.index(at)]
    resumed = pretrain(short, corpus, tmp_path / "x", device="cpu", resume=True, probe=careless, probe_every=2)
    assert taken == [1, 2, 3, 4, 5]
    assert steps(resumed) == before
    assert_same(resumed, plain) if at in (0, 5) else assert_same_weights(resumed, plain)


def assert_same_weights(folder, other):
    first, second = (load_file(each / "training" / "last.safetensors") for each in (folder, other))
    assert first.keys() == second.keys()
    assert not [name for name in first if not torch.equal(first[name], second[name])]


def test_killed_in_a_probe_it_resumes_bit_for_bit(short, corpus, plain, tmp_path):
    folder, script = tmp_path / "x", tmp_path / "child.py"
    (tmp_path / "recipe.json").write_text(short.model_dump_json())
    script.write_text(
        "import json, time\n"
        "from pathlib import Path\n"
        "from carrara.pretrain.run import pretrain\n"
        "from carrara.pretrain.recipes._base import Recipe\n"
        "from carrara.core.settings import parse_settings\n"
        "calls = []\n"
        "def probe(encoder):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 3:\n"
        f"        Path({str(tmp_path / 'probing')!r}).touch()\n"
        "        time.sleep(600)\n"
        f"    return {{'mine': {SCORE!r}}}\n"
        f"recipe = parse_settings(Recipe, json.loads(Path({str(tmp_path / 'recipe.json')!r}).read_text()), 'test')\n"
        f"pretrain(recipe, {str(corpus)!r}, {str(folder)!r}, device='cpu', probe=probe, probe_every=2)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    child = subprocess.Popen([sys.executable, script], cwd=ROOT, env=environment)
    deadline = time.monotonic() + 200
    while not (tmp_path / "probing").exists() and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.02)
    assert child.poll() is None
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert steps(folder) == [0, 2]
    pretrain(short, corpus, folder, device="cpu", resume=True, probe=careless, probe_every=2)
    assert steps(folder) == [0, 2, 4, 5]
    assert_same(folder, plain)


def test_a_probe_that_fails_is_logged_and_the_training_continues(short, corpus, plain, tmp_path):
    def failing(encoder):
        raise DataError("the clips are gone")

    with pytest.warns(UserWarning, match=r"step 0: no probe \(the clips are gone\); the training continues"):
        folder = pretrain(short, corpus, tmp_path / "x", device="cpu", probe=failing, probe_every=100)
    assert_same(folder, plain)
    failures = [(event["step"], event["event"], event["why"]) for event in read_events(folder / "metrics.jsonl")]
    assert failures == [(0, "probe failed", "the clips are gone"), (5, "probe failed", "the clips are gone")]


def test_impossible_probes_are_refused_in_one_line(short, corpus, tmp_path):
    with pytest.raises(UsageError, match="--probe-every 0: give a number of steps"):
        pretrain(short, corpus, tmp_path / "x", device="cpu", probe=careless, probe_every=0)
    with pytest.raises(UsageError, match="--probe measures encoders, and a codec is none"):
        pretrain("rvq-vae", corpus, tmp_path / "y", scale="tiny", device="cpu", probe=careless)


def test_the_picture_has_a_panel_for_each_kind_of_metric(tmp_path):
    def height(*lines):
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return imread(plot_log(tmp_path)).shape[0]

    loss, accuracy = {"step": 2, "loss": 3.0}, {"step": 2, "loss": 3.0, "accuracy/a": 0.5}
    probes = {"step": 2, "probes": {"mine": SCORE, "yours": SCORE}}
    alone, two, three = height(loss), height(accuracy), height(accuracy, probes, {"step": 3, "event": "skipped"})
    assert alone < two < three and three - two == two - alone
    # Taggers and codecs have curves of their own.
    assert height({**loss, "valid/roc_auc": 0.5, "swa/roc_auc": 0.6}) == two
    assert height({**loss, "spectral": 2.0, "distance/1": 3.0, "gradient_norm": 1.0}) == three + three - two
    codes = {"step": 2, "loss": 3.0, **{f"accuracy/codes.{index}": 0.1 * index for index in range(9)}}
    assert height(codes) == two
    # More than four panels make two columns.
    speed = {"learning_rate": 0.1, "audio_hours_per_hour": 9.0, "flops_per_second": 1e9, "eta_seconds": 60.0}
    assert height({**loss, **speed}) == three
    (tmp_path / "metrics.jsonl").write_text("")
    assert plot_log(tmp_path) is None
