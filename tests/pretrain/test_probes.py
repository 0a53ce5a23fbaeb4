"""Probes on the way: the training is bit for bit that without them, whatever they do and whenever they are stopped."""

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
from carrara.core.settings import parse_settings as read_settings
from carrara.core.settings import replace
from carrara.pretrain.log_plot import draw
from carrara.pretrain.metrics_log import events, probed, read
from carrara.pretrain.run import pretrain

ROOT = Path(__file__).parents[2]
SCORE = {"score": 0.5, "low": 0.25, "high": 0.75, "metric": "accuracy", "seconds": 0.1}


@pytest.fixture(scope="module")
def short(micro):
    """Five steps, probed at 0, 2, 4 and 5; checkpoints at 2, 4 and 5, a line of the journal at 3 and 5."""
    few = {"steps": 5, "checkpoint_every": 2, "log_every": 3, "batch": 2, "network.num_layers": 1}
    values = replace(micro, few).model_dump()
    return read_settings(type(micro), values | {"targets": {"chroma": values["targets"]["chroma"]}}, "test")


@pytest.fixture(scope="module")
def plain(short, corpus, tmp_path_factory):
    """The run without probes."""
    return pretrain(short, corpus, tmp_path_factory.mktemp("runs") / "x", device="cpu")


def careless(encoder):
    """Do all that a probe had better not do."""
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


def same(folder, other):
    one, two = (load_file(each / "training" / "last.safetensors") for each in (folder, other))
    assert one.keys() == two.keys() and not [name for name in one if not torch.equal(one[name], two[name])]
    clock = ("seconds", "audio_seconds_per_second")
    lines = [[{k: v for k, v in line.items() if k not in clock} for line in read(each / "journal.jsonl")]
             for each in (folder, other)]  # fmt: skip
    assert lines[0] == lines[1]


def steps(folder):
    return [line["step"] for line in probed(folder / "journal.jsonl")]


def test_a_careless_probe_changes_no_bit(short, corpus, plain, tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_PROGRESS", "1")
    threads, gradients = torch.get_num_threads(), torch.is_grad_enabled()
    folder = pretrain(short, corpus, tmp_path / "x", device="cpu", probe=careless, probe_every=2)
    same(folder, plain)
    assert steps(folder) == [0, 2, 4, 5] and not probed(plain / "journal.jsonl")
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == (threads, gradients)
    assert os.environ["CARRARA_PROGRESS"] == "1"
    assert probed(folder / "journal.jsonl")[1]["probes"] == {"mine": SCORE}
    assert "| mine | accuracy | 0.500 [0.250, 0.750] |" in (folder / "README.md").read_text()


def test_what_is_asked_is_the_encoder_as_it_is_then(short, corpus, tmp_path):
    heard = []

    def ask(encoder):
        samples_BT = torch.linspace(-1, 1, 16_000)[None]
        heard.append((encoder.training, encoder.card.weights, encoder(samples_BT)))
        return {"mine": SCORE}

    folder = pretrain(short, corpus, tmp_path / "x", device="cpu", probe=ask, probe_every=4)
    made = carrara.load(folder)
    assert [training for training, _, _ in heard] == [False, False, False]
    assert len({weights for _, weights, _ in heard}) == 3
    assert heard[-1][1] == made.card.weights_sha256
    torch.testing.assert_close(heard[-1][2], made(torch.linspace(-1, 1, 16_000)[None]))


@pytest.mark.parametrize("at", [0, 2, 5])
def test_ctrl_c_in_a_probe_loses_nothing(at, short, corpus, plain, tmp_path, monkeypatch):
    from carrara.pretrain import loop

    step, taken = loop._step, []

    def counted(run, *arguments):
        taken.append(run.step)
        return step(run, *arguments)

    def stopped(encoder):
        if len(taken) == at:
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("a probe ends at once")
        return {"mine": SCORE}

    monkeypatch.setattr(loop, "_step", counted)
    with pytest.raises(KeyboardInterrupt):
        pretrain(short, corpus, tmp_path / "x", device="cpu", probe=stopped, probe_every=2)
    before = [0, 2, 4, 5]
    assert steps(tmp_path / "x") == before[: before.index(at)]
    resumed = pretrain(short, corpus, tmp_path / "x", device="cpu", resume=True, probe=careless, probe_every=2)
    assert taken == [0, 1, 2, 3, 4]
    assert steps(resumed) == before
    same(resumed, plain) if at in (0, 5) else assert_weights(resumed, plain)


def assert_weights(folder, other):
    one, two = (load_file(each / "training" / "last.safetensors") for each in (folder, other))
    assert not [name for name in one if not torch.equal(one[name], two[name])]


def test_killed_in_a_probe_it_goes_on_bit_for_bit(short, corpus, plain, tmp_path):
    folder, script = tmp_path / "x", tmp_path / "child.py"
    (tmp_path / "recipe.json").write_text(short.model_dump_json())
    script.write_text(
        "import json, time\n"
        "from pathlib import Path\n"
        "from carrara.pretrain.run import pretrain\n"
        "from carrara.pretrain.recipes._base import Recipe\n"
        "from carrara.core.settings import read\n"
        "asked = []\n"
        "def ask(encoder):\n"
        "    asked.append(1)\n"
        "    if len(asked) == 3:\n"
        f"        Path({str(tmp_path / 'asking')!r}).touch()\n"
        "        time.sleep(600)\n"
        f"    return {{'mine': {SCORE!r}}}\n"
        f"recipe = read(Recipe, json.loads(Path({str(tmp_path / 'recipe.json')!r}).read_text()), 'test')\n"
        f"pretrain(recipe, {str(corpus)!r}, {str(folder)!r}, device='cpu', probe=ask, probe_every=2)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    child = subprocess.Popen([sys.executable, script], cwd=ROOT, env=environment)
    deadline = time.monotonic() + 200
    while not (tmp_path / "asking").exists() and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.02)
    assert child.poll() is None
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert steps(folder) == [0, 2]
    pretrain(short, corpus, folder, device="cpu", resume=True, probe=careless, probe_every=2)
    assert steps(folder) == [0, 2, 4, 5]
    same(folder, plain)


def test_a_probe_that_fails_is_told_and_the_training_goes_on(short, corpus, plain, tmp_path):
    def failing(encoder):
        raise DataError("the clips are gone")

    with pytest.warns(UserWarning, match=r"step 0: no probe \(the clips are gone\); the training goes on"):
        folder = pretrain(short, corpus, tmp_path / "x", device="cpu", probe=failing, probe_every=100)
    same(folder, plain)
    told = [(one["step"], one["event"], one["why"]) for one in events(folder / "journal.jsonl")]
    assert told == [(0, "probe failed", "the clips are gone"), (5, "probe failed", "the clips are gone")]


def test_what_cannot_be_probed_is_one_line(short, corpus, tmp_path):
    with pytest.raises(UsageError, match="--probe-every 0: give a number of steps"):
        pretrain(short, corpus, tmp_path / "x", device="cpu", probe=careless, probe_every=0)
    with pytest.raises(UsageError, match="--from and --probe go with recipes that predict what is masked"):
        pretrain("rvq-vae", corpus, tmp_path / "y", scale="tiny", device="cpu", probe=careless)


def test_the_picture_has_a_panel_for_whatever_was_measured(tmp_path):
    def height(*lines):
        (tmp_path / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return imread(draw(tmp_path)).shape[0]

    loss, right = {"step": 2, "loss": 3.0}, {"step": 2, "loss": 3.0, "accuracy/a": 0.5}
    asked = {"step": 2, "probes": {"mine": SCORE, "yours": SCORE}}
    alone, two, three = height(loss), height(right), height(right, asked, {"step": 3, "event": "skipped"})
    assert alone < two < three and three - two == two - alone
    books = {"step": 2, "loss": 3.0, **{f"accuracy/codes.{book}": 0.1 * book for book in range(9)}}
    assert height(books) == two
    (tmp_path / "journal.jsonl").write_text("")
    assert draw(tmp_path) is None
