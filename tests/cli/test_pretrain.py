"""`carrara pretrain` from the command line: what it prints and refuses, and how it resumes."""

import json
import re

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from carrara.cli._main import app
from carrara.encoders._hub.load import load

SMALLER = [
    "network.conv_channels=16",
    "network.dim=32",
    "network.num_layers=1",
    "network.num_heads=2",
    "network.ffn_dim=32",
    "network.position_groups=4",
    "targets.log-mel.k=8",
    "targets.log-mel.fraction=1.0",
    "targets.chroma.k=6",
    "targets.chroma.fraction=1.0",
    "crop_seconds=1.0",
    "batch=4",
    "steps=4",
]


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    folder = tmp_path_factory.mktemp("music")
    rng = np.random.default_rng(0)
    for number in range(5):
        pitches = 220 * 2 ** (rng.integers(24, size=8).repeat(4000) / 12)
        soundfile.write(folder / f"{number}.wav", 0.3 * np.sin(2 * np.pi * np.cumsum(pitches) / 16_000), 16_000)
    return folder


def run(*arguments):
    return CliRunner().invoke(app, ["pretrain", *map(str, arguments)])


def settings(*more):
    return [word for change in (*SMALLER, *more) for word in ("--set", change)]


@pytest.mark.slow
def test_it_writes_an_encoder_and_prints_one_line(music, tmp_path):
    out = tmp_path / "encoder"
    done = run("mert-v0", "--scale", "tiny", *settings(), "--corpus", music, "-o", out, "--device", "cpu", "--json")
    assert done.exit_code == 0, done.output
    line = json.loads(done.stdout)
    assert line["folder"] == str(out)
    assert line["step"] == 4
    assert load(out).card.dim == 32
    again = run("mert-v0", "--scale", "tiny", *settings(), "-c", music, "-o", out)
    assert again.exit_code == 1
    assert "go on with --resume" in again.output
    more = run("mert-v0", "--scale", "tiny", *settings(), "-c", music, "-o", out, "--resume")
    assert more.exit_code == 0
    assert more.stdout.startswith(f"{out}\tstep 4\tloss ")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["mert-v9", "-c", "MUSIC", "-o", "OUT"], 2, "there is no recipe 'mert-v9'. Did you mean 'mert-v0'"),
        (["mert-v0", "--scale", "tin", "-c", "MUSIC", "-o", "OUT"], 2, "has no scale 'tin'. Did you mean 'tiny'?"),
        (
            ["mert-v0", "--scale", "tiny", "--set", "maskin.mask_length=3", "-c", "MUSIC", "-o", "OUT"],
            2,
            "Did you mean 'masking.mask_length'",
        ),
        (
            ["mert-v0", "--scale", "tiny", "--set", "targets.cqt.form=loud", "-c", "MUSIC", "-o", "OUT"],
            2,
            "form: input should be",
        ),
        (
            ["mert-v0", "--scale", "tiny", "--set", "network.dim=100", "-c", "MUSIC", "-o", "OUT"],
            2,
            "must be divisible",
        ),
        (["mert-v0", "--scale", "tiny", "--set", "batch", "-c", "MUSIC", "-o", "OUT"], 2, "write it as path=value"),
        (["mert-v0", "--scale", "tiny", "-o", "OUT"], 2, "nothing to train on; give files or folders with --corpus"),
        (["mert-v0", "--scale", "tiny", "-c", "MUSIC"], 2, "no output folder; give the folder"),
        (["mert-v0", "--scale", "tiny", "-c", "OUT/none", "-o", "OUT"], 1, "none: there is no such file or folder"),
        (
            ["mert-v0", "--scale", "tiny", "-c", "OUT/{0..9}.tar", "-o", "OUT"],
            1,
            "0.tar: there is no such file or folder",
        ),
        (["mert-v0", "--scale", "tiny", "--device", "cuda:7", "-c", "MUSIC", "-o", "OUT"], 2, "cuda:7"),
        (
            ["mert-v0", "--scale", "tiny", "--probe", "pebble/kye", "-c", "MUSIC", "-o", "OUT"],
            2,
            "Did you mean 'pebble/key'",
        ),
        (
            ["mert-v0", "--scale", "tiny", "--probe", "pebble/stems", "-c", "MUSIC", "-o", "OUT"],
            2,
            "source_separation needs a network of its own",
        ),
        (
            ["mert-v0", "--scale", "tiny", "--probe", "gtzan/genre", "-c", "MUSIC", "-o", "OUT", "--data-dir", "OUT"],
            1,
            "carrara download gtzan",
        ),
        (
            ["mert-v0", "--scale", "tiny", "--from", "mert-v9", "-c", "MUSIC", "-o", "OUT"],
            2,
            "there is no registered encoder 'mert-v9'",
        ),
        (
            ["mert-v0", "--scale", "tiny", "--from", "noise", "-c", "MUSIC", "-o", "OUT"],
            2,
            "--from noise: is no network",
        ),
        (
            ["rvq-vae", "--scale", "tiny", "--from", "none", "-c", "MUSIC", "-o", "OUT"],
            1,
            "none/config.json: no RVQ-VAE",
        ),
    ],
)
def test_an_error_is_one_line(music, tmp_path, arguments, code, message):
    paths = {"MUSIC": str(music), "OUT": str(tmp_path / "out"), "OUT/none": str(tmp_path / "none")}
    done = run(*[paths.get(argument, argument) for argument in arguments])
    assert done.exit_code == code, done.output
    assert message in " ".join(done.output.split())
    assert len(done.output.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("recipe", "size"),
    [("mert-v1-95m", "400,000 steps over 604,444 hours"), ("maest-30s", "130 epochs"), ("rvq-vae", "300,000 steps")],
)
def test_the_published_size_is_refused_on_a_cpu_without_yes(music, tmp_path, recipe, size):
    done = run(recipe, "--device", "cpu", "-c", music, "-o", tmp_path / "out")
    message = " ".join(done.output.split())
    assert done.exit_code == 2 and size in message and not (tmp_path / "out").exists()
    assert "--yes" in message and f"`carrara pretrain {recipe} --dry-run`" in message


@pytest.mark.parametrize("words", [["--yes"], ["--steps", "1000"], ["--scale", "tiny"]])
def test_yes_few_steps_or_a_smaller_scale_pass_that_refusal(music, tmp_path, words):
    done = run("mert-v1-95m", "--device", "cpu", "-c", music, "-o", tmp_path / "out", "--from", "mert-v9", *words)
    assert "there is no registered encoder 'mert-v9'" in done.output


def test_an_interruption_says_how_to_continue(music, tmp_path, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("carrara.pretrain.run.pretrain", interrupt)
    done = run("mert-v0", "--scale", "tiny", "-c", music, "-o", tmp_path / "out")
    assert done.exit_code == 130
    assert "with the same command and --resume" in done.output


def test_the_same_command_trains_a_codec(music, tmp_path):
    small = ["network.filters=4", "network.num_codebooks=2", "network.codebook_size=16", "batch=2", "crop_seconds=0.5"]
    words = [word for setting in small for word in ("--set", setting)]
    done = run("rvq-vae", "--scale", "tiny", *words, "--steps", "2", "-c", music, "-o", tmp_path / "codec")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "codec/model.safetensors").is_file() and list((tmp_path / "codec/sound").iterdir())
    assert "carrara bench" not in done.output and (tmp_path / "codec/metrics.png").is_file()
    resumed = run(
        "rvq-vae", "--scale", "tiny", *words, "--steps", "2", "-c", music, "-o", tmp_path / "codec", "--resume"
    )
    assert resumed.exit_code == 0, resumed.output


def test_the_suggested_command_for_a_codec_works_as_typed(music, tmp_path):
    small = ["network.filters=4", "network.num_codebooks=2", "network.codebook_size=16", "batch=2", "crop_seconds=0.5"]
    words = [word for setting in small for word in ("--set", setting)]
    codec = tmp_path / "codec"
    done = run("rvq-vae", "--scale", "tiny", *words, "--steps", "2", "-c", music, "-o", codec)
    suggestion = re.search(r"`carrara pretrain (.*?)` trains on its codes", " ".join(done.output.split()))[1]
    arguments = suggestion.replace("-c MUSIC -o my-mert", f"-c {music} -o {tmp_path / 'mert'} --steps 1").split()
    micro = [change for change in (*SMALLER, "mixup.pool=2") if "log-mel" not in change and "chroma" not in change]
    done = run(*arguments, *(word for change in micro for word in ("--set", change)))
    assert done.exit_code == 0, done.output
    codes = json.loads((tmp_path / "mert/run.json").read_text())["recipe"]["targets"]["codes"]
    assert (codes["source"], codes["num_codebooks"], codes["codebook_size"]) == ("rvq-vae", 2, 16)


@pytest.fixture(scope="module")
def pitches(tmp_path_factory):
    """Return a task file: is a tone low or high? Forty clips of half a second; the test clips cannot be read."""
    root = tmp_path_factory.mktemp("own")
    (root / "tones").mkdir()
    lines = ["path,split,pitch"]
    for number in range(40):
        high, split = number % 2, ("train", "train", "valid", "valid", "test")[number // 2 % 5]
        time = np.arange(8000) / 16_000
        sound = 0.3 * np.sin(2 * np.pi * (200 + 3000 * high + number) * time)
        soundfile.write(root / "tones" / f"{number}.wav", sound, 16_000)
        if split == "test":
            (root / "tones" / f"{number}.wav").write_bytes(b"unreadable")
        lines.append(f"{number}.wav,{split},{('low', 'high')[high]}")
    (root / "tones" / "labels.csv").write_text("\n".join(lines))
    (root / "pitch.toml").write_text('data = "tones"\ntask_type = "multiclass"\nlabel = "pitch"\n')
    return root / "pitch.toml"


@pytest.mark.slow
def test_a_task_file_is_probed_during_training_without_its_test_split(music, pitches, tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    out = tmp_path / "encoder"
    words = ["mert-v0", "--scale", "tiny", *settings(), "-c", music, "-o", out, "--device", "cpu"]
    done = run(*words, "--probe", pitches, "--probe-every", "2")
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    probed = [(line["step"], line["probes"]["pitch"]) for line in lines if "probes" in line]
    assert [step for step, _ in probed] == [0, 2, 4]
    for _, score in probed:
        # A tone of 200 Hz and one of 3.2 kHz: nearly any network's features separate them.
        assert score["metric"] == "accuracy" and score["seconds"] > 0
        assert 0.75 <= score["score"] <= score["high"] <= 1
    assert (out / "metrics.png").read_bytes().startswith(b"\x89PNG") and not (tmp_path / "home" / "features").exists()
    assert json.loads((out / "run.json").read_text())["recipe"]["steps"] == 4
    assert run(*words, "--resume", "--probe", pitches).exit_code == 0
    assert (out / "metrics.jsonl").read_text().count('"probes"') == 3


def test_training_starts_from_another_encoder_and_reports_it(music, tmp_path):
    words = ["mert-v0", "--scale", "tiny", *settings("targets.cqt.weight=2"), "-c", music, "--device", "cpu"]
    first = run(*words, "-o", tmp_path / "one")
    assert first.exit_code == 0, first.output
    done = run(*words, "-o", tmp_path / "two", "--from", tmp_path / "one", "--set", "targets.chroma.k=5")
    assert done.exit_code == 0, done.output
    assert "heads loaded: log-mel, cqt; re-initialized: chroma (k was 6, now 5)" in done.stderr
    assert "started from" not in done.stdout
