"""`carrara plan` against what was planned: sizes exactly, times by an encoder of known speed."""

import json
import math
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from carrara.cli._main import app
from carrara.encoders._hub.load import load
from carrara.features.embed_config import EmbedConfig
from carrara.features.parquet import write_embeddings
from carrara.features.plan import DRIFT, Estimate, plan_embed

RATE = 22_050


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))


@pytest.fixture
def files(tmp_path):
    """Return 40 files of 1 to 3 s."""
    paths = [tmp_path / f"{number}.wav" for number in range(40)]
    for number, path in enumerate(paths):
        noise = np.random.default_rng(number).uniform(-0.1, 0.1, round((1 + number % 3) * RATE))
        soundfile.write(path, np.cumsum(noise) / 20, RATE)
    return paths


def sleeping(seconds_per_second):
    """Return an encoder that takes so long for a second of audio, beyond what it computes."""
    encoder = load("noise")

    class Sleeping(type(encoder)):
        def forward(self, samples_BT, lengths_B=None):
            time.sleep(seconds_per_second * samples_BT.numel() / self.card.sample_rate)
            return super().forward(samples_BT, lengths_B)

    encoder.__class__ = Sleeping
    return encoder


def test_the_time_is_that_of_an_encoder_of_known_speed(files):
    plan = plan_embed(sleeping(0.01), files, EmbedConfig(), batch_size=1, num_files=40_000, seconds=0.1)
    audio = 40_000 * np.mean([1 + number % 3 for number in range(40)])
    assert plan["audio_hours"].expected == pytest.approx(audio / 3600, rel=1e-3)
    # Never faster than the encoder sleeps; how much slower depends on the machine.
    assert plan["seconds"].expected >= 0.0099 * audio and plan["seconds"].low < plan["seconds"].expected
    slower = plan_embed(sleeping(0.1), files, EmbedConfig(), batch_size=1, num_files=40_000, seconds=0.1)
    assert slower["seconds"].expected > 0.099 * audio


@pytest.fixture
def counted_clock(monkeypatch):
    """Return the clock's reading as a list: nothing but a test moves it."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


@pytest.mark.parametrize("first_batch", [0.0, 3.0])
@pytest.mark.parametrize(("start", "num_files"), [(0.0, 40), (5.0, 40), (5.0, 4_000_000)])
def test_the_time_is_start_and_work(files, counted_clock, start, num_files, first_batch):
    encoder = load("noise")
    slower = iter([first_batch])

    class Counting(type(encoder)):
        def forward(self, samples_BT, lengths_B=None):
            samples = samples_BT.numel() if lengths_B is None else int(lengths_B.sum())
            counted_clock[0] += next(slower, 0.0) + 0.25 * samples
            return super().forward(samples_BT, lengths_B)

    encoder.__class__ = Counting
    plan = plan_embed(encoder, files, EmbedConfig(), batch_size=1, num_files=num_files, start_seconds=start)
    work = 0.25 * encoder.card.sample_rate * 3600 * plan["audio_hours"].expected
    start += first_batch
    assert plan["start_seconds"] == pytest.approx(start, abs=1e-6)
    assert plan["seconds"].expected == pytest.approx(start + work, rel=1e-6)
    # Every part of it may be off by the drift of the machine's speed.
    assert plan["seconds"].high >= (start + work) * math.exp(2 * DRIFT) * 0.999
    assert plan["seconds"].low <= (start + work) * math.exp(-2 * DRIFT) * 1.001


def test_a_process_counts_from_its_begin():
    """Beside the clock of the parent, which begins before it; it stops at the line, before Python ends."""
    code = "import time; time.sleep(0.5); from carrara.features.plan import process_seconds; print(process_seconds())"
    begin = time.time()
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        counted = time.time() - begin
    hundredth = 0.01  # the kernel's unit
    assert 0.5 - hundredth <= float(line) <= counted + hundredth


def test_sampled_recordings_take_what_their_excerpts_take(files):
    plan = plan_embed(load("noise"), files, EmbedConfig(sample="1x1"), batch_size=1, seconds=0.1)
    assert plan["audio_hours"].expected == pytest.approx(40 / 3600)
    assert (plan["audio_hours"].low, plan["audio_hours"].high) == (plan["audio_hours"].expected,) * 2


@pytest.mark.parametrize("per", ["clip", "window", "frame"])
def test_the_disk_is_that_of_the_file(files, tmp_path, per):
    encoder, config = load("noise"), EmbedConfig(per=per, window_seconds=1.0 if per == "window" else None)
    plan = plan_embed(encoder, files, config, seconds=0.1)
    write_embeddings(encoder, files, tmp_path / "out.parquet", config)
    assert plan["disk_bytes"].expected == pytest.approx((tmp_path / "out.parquet").stat().st_size, rel=0.3)


def test_the_range_of_a_mean_holds_the_mean_of_all(files):
    """Of 1,000 draws of half-known totals, about 95 in 100 ranges of two standard errors hold the truth."""
    draws = np.random.default_rng(0).normal(10.0, 2.0, (1000, 30))
    held = 0
    for draw in draws:
        estimate = Estimate.around(draw.mean(), draw.std(ddof=1) / np.sqrt(30) / draw.mean())
        held += estimate.low <= 10.0 <= estimate.high
    assert 0.92 < held / 1000 < 0.98


def run(*arguments):
    return CliRunner().invoke(app, ["plan", *map(str, arguments)])


def test_the_command_prints_all_parts(files):
    options = ("-e", "musicnn-mtt:random", "--seconds", 1, "--files", 10**6, "--price", 2, "--gpu", "h200", "--gpus", 4)
    result = run("embed", files[0].parent, *options, "--json")
    assert result.exit_code == 0, result.stderr
    plan = json.loads(result.stdout)
    assert plan["files"] == 10**6 and plan["memory_bytes"]["expected"] > 1e8
    assert plan["price"]["here"]["expected"] == pytest.approx(2 * plan["seconds"]["expected"] / 3600)
    assert plan["price"]["gpus"]["high"] == pytest.approx(4 * 2 * plan["gpus"]["seconds"]["high"] / 3600)
    # 0.2 of the peak of four H200, after a start of each.
    work = plan["gpus"]["flops"] / (4 * 989e12 * 0.2)
    assert plan["gpus"]["seconds"]["expected"] == pytest.approx(plan["start_seconds"] + work)
    text = run("embed", files[0].parent, *options).stdout
    assert [line.split("\t")[0] for line in text.splitlines()] == [
        "audio", "time on cpu", "memory", "disk", "4 x h200", "price here", "price of the GPUs"
    ]  # fmt: skip


def test_the_start_is_named_where_it_is_a_noticeable_part(files):
    """This process began long before two files were embedded; ten million take far longer."""
    line = run("embed", files[0].parent, "-e", "noise", "--seconds", 1).stdout.splitlines()[1]
    assert line.startswith("time on cpu\t") and line.endswith(" s start the command")
    many = run("embed", files[0].parent, "-e", "noise", "--seconds", 1, "--files", 10**10).stdout
    assert "start the command" not in many


def test_operations_of_a_second_are_those_of_its_products():
    """musicnn's VGG: PyTorch's own count of a window, over the window's seconds."""
    from torch.utils.flop_counter import FlopCounterMode

    from carrara.cli.plan import _flops_per_second

    encoder = load("musicnn-mtt-vgg:random")
    seconds = encoder.card.window_seconds or 30.0
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder(torch.randn(1, round(seconds * encoder.card.sample_rate)))
    assert _flops_per_second(encoder) == pytest.approx(counter.get_total_flops() / seconds)


def test_mistakes_are_one_line(files, tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "none/broken.wav").write_bytes(b"no audio")
    for arguments, message in [
        (("embed", files[0]), "give -e NAME"),
        (("embed", files[0], "-e", "noise", "--gpu", "h1000"), "--gpu h1000: is not known"),
        (("embed", tmp_path / "none", "-e", "noise"), "broken.wav: not an audio file"),
        (("pretrain", "mert-v0", "mert-v1-95m"), "takes one recipe"),
        (("pretrain", "nothing"), "nothing"),
    ]:
        result = run(*arguments)
        assert result.exit_code in (1, 2) and message in result.stderr, result.stderr
        assert len(result.stderr.splitlines()) == 1


@pytest.mark.slow
def test_pretrain_is_the_dry_run_with_a_price():
    options = ("--scale", "tiny", "--gpu", "h100", "--gpus", 8)
    plan = json.loads(run("pretrain", "mert-v0", *options, "--price", 3, "--json").stdout)
    assert plan["price"]["gpus"] == pytest.approx(3 * 8 * plan["gpus"]["hours"])
    assert "price of 8 x h100" in run("pretrain", "mert-v0", *options, "--price", 3).stdout
