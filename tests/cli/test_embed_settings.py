"""`carrara embed --set` end to end on a small MAEST: tokens, patchout, frames, errors."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from typer.testing import CliRunner

import carrara
from carrara.cli._main import app
from carrara.core.errors import UsageError
from carrara.encoders._hub.load import build_encoder, save_pretrained

RATE = 16_000


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a small MAEST whose tokens differ enough for a mistake to show."""
    path = tmp_path_factory.mktemp("encoder") / "mine"
    encoder = build_encoder("maest-tiny", 1, {"dim": 16, "num_layers": 2, "num_heads": 2, "ffn_dim": 16, "classes": 5})
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(5)
    save_pretrained(encoder, path)
    return path


@pytest.fixture
def song(tmp_path):
    path = tmp_path / "song.wav"
    soundfile.write(path, np.random.default_rng(5).uniform(-0.3, 0.3, 5 * RATE), RATE)
    return path


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def layers(folder, song, **patchout):
    """Return a clip's tokens of every layer, `[2 + patches, width]`, by the network alone."""
    encoder = carrara.load(folder)
    samples = torch.from_numpy(soundfile.read(song, dtype="float32")[0])[None]
    with torch.inference_mode():
        return [x[0] for x in encoder.vit(encoder.normalize(encoder.mel(samples)), **patchout)]


def test_embed_pools_the_chosen_tokens(tmp_path, folder, song):
    tokens = layers(folder, song)[1]
    out = tmp_path / "cls.parquet"
    options = ("-e", folder, "--layer", 1)
    assert run("embed", song, *options, "-o", out, "--set", "tokens=cls").exit_code == 0
    np.testing.assert_allclose(pq.read_table(out)["embedding"].to_pylist()[0], tokens[0], atol=1e-4, rtol=1e-4)
    assert json.loads(pq.read_schema(out).metadata[b"settings"])["encoder_settings"]["tokens"] == "cls"
    out = tmp_path / "frames.parquet"
    result = run("embed", song, *options, "-o", out, "--per", "frame", "--set", "tokens=frames")
    assert result.exit_code == 0, result.stderr
    np.testing.assert_allclose(pq.read_table(out)["start"].to_numpy(), np.arange(30) / 6.25)
    frames = tokens[2:].reshape(9, 30, 16).mean(0)
    np.testing.assert_allclose(pq.read_table(out)["embedding"].to_pylist(), frames, atol=1e-4, rtol=1e-4)


def test_embed_leaves_out_the_chosen_columns(tmp_path, folder, song):
    # Columns are dropped first and thinned then: of those without 4, every second.
    thinned = [column for column in range(30) if column != 4][::2]
    for changes, columns in (
        (["every_column=2"], [column for column in range(30) if column % 2 == 0]),
        (["every_column=2", "drop_columns=[4]"], thinned),
    ):
        expected = layers(folder, song, keep_columns=torch.tensor(columns))
        assert all(len(x) == 2 + 9 * len(columns) for x in expected)
        for tokens, pooled in (
            ("cls", [x[0] for x in expected]),
            ("average", [x[2:].mean(0) for x in expected]),
            ("stack", [torch.cat([x[0], x[1], x[2:].mean(0)]) for x in expected]),
        ):
            out = tmp_path / f"{tokens}-{len(changes)}.parquet"
            options = [word for change in [*changes, f"tokens={tokens}"] for word in ("--set", change)]
            result = run("embed", song, "-e", folder, "-o", out, "--layer", "all", *options)
            assert result.exit_code == 0, result.stderr
            embeddings = pq.read_table(out)["embedding"].to_pylist()
            np.testing.assert_allclose(embeddings, torch.stack(pooled), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("token=cls", "there is no setting 'token'. Did you mean 'tokens'"),
        ("dim=32", "dim would need other weights"),
        ("tokens", "write it as path=value"),
        ("drop_rows=[0,1,2,3,4,5,6,7,8]", "would drop all 9"),
    ],
)
def test_settings_that_cannot_be_changed_are_named(tmp_path, folder, song, change, message):
    result = run("embed", song, "-e", folder, "-o", tmp_path / "x.parquet", "--set", change)
    assert result.exit_code == 2
    assert message in result.stderr


def test_frames_of_a_network_without_frames_are_refused(tmp_path, folder, song):
    out = tmp_path / "out" / "frames.parquet"
    result = run("embed", song, "-e", folder, "-o", out, "--per", "frame")
    message = "--per frame: mine has one vector per window; use --per window, or for a MAEST --set tokens=frames"
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"carrara embed: {message}\n")
    assert not out.parent.exists()
    with pytest.raises(UsageError, match="mine has one vector per window"):
        carrara.embed(tmp_path / "none.wav", folder, per="frame")
