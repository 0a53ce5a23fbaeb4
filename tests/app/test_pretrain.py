"""`carrara pretrain` from the command line: what it prints, refuses, and how it goes on."""

import json

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from carrara.app.cli import app
from carrara.encoders._load import load

SMALLER = [
    "network.conv_channels=16",
    "network.width=32",
    "network.layers=1",
    "network.heads=2",
    "network.feed_forward=32",
    "network.position_groups=4",
    "targets.log-mel.k=8",
    "targets.log-mel.share=1.0",
    "targets.chroma.k=6",
    "targets.chroma.share=1.0",
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


def test_it_makes_an_encoder_and_prints_one_line_of_data(music, tmp_path):
    out = tmp_path / "encoder"
    done = run("mert-v0", "--scale", "tiny", *settings(), "--corpus", music, "-o", out, "--device", "cpu", "--json")
    assert done.exit_code == 0, done.output
    line = json.loads(done.stdout)
    assert line["folder"] == str(out)
    assert line["step"] == 4
    assert load(out).card.width == 32
    again = run("mert-v0", "--scale", "tiny", *settings(), "-c", music, "-o", out)
    assert again.exit_code == 1
    assert "go on with --resume" in again.output
    more = run("mert-v0", "--scale", "tiny", *settings(), "-c", music, "-o", out, "--resume")
    assert more.exit_code == 0
    assert more.stdout.startswith(f"{out}\tstep 4\tloss ")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["mert-v9", "-c", "MUSIC", "-o", "OUT"], 2, "there is no recipe 'mert-v9'. Did you mean 'mert-v0'"),
        (["mert-v0", "--scale", "tin", "-c", "MUSIC", "-o", "OUT"], 2, "has no scale 'tin'. Did you mean 'tiny'?"),
        (["mert-v0", "--set", "maskin.span=3", "-c", "MUSIC", "-o", "OUT"], 2, "Did you mean 'masking.span'"),
        (["mert-v0", "--set", "targets.cqt.form=loud", "-c", "MUSIC", "-o", "OUT"], 2, "form: input should be"),
        (["mert-v0", "--set", "network.width=100", "-c", "MUSIC", "-o", "OUT"], 2, "must be divisible"),
        (["mert-v0", "--set", "batch", "-c", "MUSIC", "-o", "OUT"], 2, "write it as path=value"),
        (["mert-v0", "-o", "OUT"], 2, "nothing to learn from; give files or folders with --corpus"),
        (["mert-v0", "-c", "MUSIC"], 2, "nowhere to write"),
        (["mert-v0", "-c", "OUT/none", "-o", "OUT"], 1, "none: there is no such file or folder"),
        (["mert-v0", "--device", "cuda:7", "-c", "MUSIC", "-o", "OUT"], 2, "cuda:7"),
    ],
)
def test_what_cannot_be_done_is_one_line(music, tmp_path, arguments, code, words):
    places = {"MUSIC": str(music), "OUT": str(tmp_path / "out"), "OUT/none": str(tmp_path / "none")}
    done = run(*[places.get(word, word) for word in arguments])
    assert done.exit_code == code, done.output
    assert words in " ".join(done.output.split())
    assert len(done.output.strip().splitlines()) == 1


def test_an_interruption_says_how_to_go_on(music, tmp_path, monkeypatch):
    def press(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("carrara.pretrain.run.pretrain", press)
    done = run("mert-v0", "-c", music, "-o", tmp_path / "out")
    assert done.exit_code == 130
    assert "go on with the same command and --resume" in done.output


def test_the_codec_is_taught_by_the_same_verb(music, tmp_path):
    small = ["network.filters=4", "network.books=2", "network.size=16", "batch=2", "crop_seconds=0.5"]
    words = [word for setting in small for word in ("--set", setting)]
    done = run("rvq-vae", "--scale", "tiny", *words, "--steps", "2", "-c", music, "-o", tmp_path / "codec")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "codec/model.safetensors").is_file() and list((tmp_path / "codec/sound").iterdir())
    resumed = run(
        "rvq-vae", "--scale", "tiny", *words, "--steps", "2", "-c", music, "-o", tmp_path / "codec", "--resume"
    )
    assert resumed.exit_code == 0, resumed.output
