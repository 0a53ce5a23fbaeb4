"""`carrara tag` as a person meets it: what is printed and kept, resuming, refusals; and `carrara embed --set`."""

import csv
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from typer.testing import CliRunner

import carrara
from carrara.app.cli import app
from carrara.app.style_picture import clock, edges
from carrara.encoders._load import build, save_pretrained
from carrara.features.tags import Track

RATE = 16_000
LABELS = [f"Rock---Kind {place}" for place in range(5)]


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a small MAEST that knows its labels and tells clips apart."""
    place = tmp_path_factory.mktemp("encoder") / "mine"
    encoder = build("maest-tiny", 1, {"width": 16, "layers": 1, "heads": 1, "feed_forward": 16, "classes": 5})
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(20)
    encoder.settings = encoder.settings.model_copy(update={"labels": tuple(LABELS)})
    save_pretrained(encoder, place)
    return place


@pytest.fixture
def music(tmp_path):
    place = tmp_path / "music"
    place.mkdir()
    for name, seconds in (("a.wav", 12.0), ("b.wav", 5.0)):
        soundfile.write(place / name, np.random.default_rng(len(name)).uniform(-0.3, 0.3, round(seconds * RATE)), RATE)
    return place


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_what_is_told_and_kept_is_what_the_encoder_says(tmp_path, folder, music):
    encoder = carrara.load(folder)
    samples = torch.from_numpy(soundfile.read(music / "a.wav", dtype="float32")[0])
    starts = [0, 5, 10]
    with torch.inference_mode():
        windows = torch.cat(
            [encoder.tags(samples[None, start * RATE : (start + 5) * RATE]) for start in starts]
        ).numpy()
    mean = np.average(windows, axis=0, weights=[5, 5, 2])
    best = np.argsort(-mean)[:2]
    result = run("tag", music, "-e", folder, "--top", 2, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert len(lines) == 4
    for line, style in zip(lines, best):
        assert line[:2] == [str(music / "a.wav"), LABELS[style]]
        assert float(line[2]) == pytest.approx(mean[style], abs=6e-4)
        assert float(line[3].removesuffix(" s")) == starts[windows[:, style].argmax()]
    table = pq.read_table(tmp_path / "out" / "probabilities.parquet")
    np.testing.assert_allclose(np.stack(table["embedding"].to_numpy())[:3], windows, atol=1e-5)
    kept = json.loads((tmp_path / "out" / "styles.json").read_text())
    assert kept["labels"] == LABELS
    assert [window["duration"] for window in kept["recordings"][0]["windows"]] == [5, 5, 2]
    rows = list(csv.DictReader((tmp_path / "out" / "styles.csv").open()))
    assert len(rows) == 4 * 2
    for row in rows[:6]:
        place = starts.index(float(row["start"]))
        assert float(row["probability"]) == pytest.approx(windows[place, LABELS.index(row["style"])], abs=1e-4)
    for name in ("a.png", "b.png"):
        assert (tmp_path / "out" / name).read_bytes()[:4] == b"\x89PNG"


def test_the_same_command_hears_only_what_is_new(tmp_path, folder, music):
    command = ("tag", music, "-e", folder, "-o", tmp_path / "out", "--hop", 2.5, "--json")
    first = json.loads(run(*command).stdout)
    table = tmp_path / "out" / "probabilities.parquet"
    stamp = table.stat().st_mtime_ns
    assert json.loads(run(*command).stdout) == first
    assert table.stat().st_mtime_ns == stamp
    soundfile.write(music / "c.wav", np.zeros(RATE * 6), RATE)
    grown = json.loads(run(*command).stdout)
    assert grown["recordings"][:2] == first["recordings"]
    assert len(grown["recordings"]) == 3
    other = run("tag", music, "-e", folder, "-o", tmp_path / "out", "--hop", 1)
    assert other.exit_code == 1
    assert "hop_seconds" in other.stderr


def test_what_is_too_short_or_broken_is_named_and_the_rest_go_on(tmp_path, folder, music):
    soundfile.write(music / "short.wav", np.zeros(4000), RATE)
    (music / "empty.wav").touch()
    result = run("tag", music, "-e", folder, "--json")
    assert result.exit_code == 1
    assert "short.wav: 0.250 s are less than one patch of 0.256 s" in result.stderr
    assert "empty.wav: empty" in result.stderr
    told = json.loads(result.stdout)
    assert len(told["recordings"]) == 2
    assert len(told["failed"]) == 2
    alone = run("tag", music / "short.wav", "-e", folder)
    assert (alone.exit_code, alone.stdout) == (1, "")


def test_labels_come_from_the_file_that_is_given(tmp_path, music):
    nameless = ("-e", "maest-tiny:random", "--top", 1)
    assert "\tstyle " in run("tag", music / "b.wav", *nameless).stdout
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps([f"Jazz---{place}" for place in range(400)]))
    assert "\tJazz---" in run("tag", music / "b.wav", *nameless, "--labels", labels).stdout
    labels.write_text(json.dumps(LABELS))
    result = run("tag", music / "b.wav", *nameless, "--labels", labels)
    assert result.exit_code == 2
    assert "labels.json: 5 names for a head of 400 styles: none for style 5, 6, 7, …" in result.stderr


def test_labels_that_differ_from_the_encoders_own_are_named(tmp_path, folder, music):
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps([*LABELS[:4], "Rock---Surf"]))
    result = run("tag", music, "-e", folder, "--labels", labels)
    assert result.exit_code == 2
    assert "1 that it does not have ('Rock---Surf'); 1 of its own missing ('Rock---Kind 4')" in result.stderr


def test_an_encoder_without_styles_is_refused(music):
    result = run("tag", music, "-e", "noise")
    assert result.exit_code == 2
    assert "noise: tells no tags" in result.stderr


def test_windows_are_shown_between_the_midpoints():
    track = Track("x", np.array([0.0, 2.0, 4.0]), np.array([4.0, 4.0, 3.0]), np.zeros((3, 5)))
    np.testing.assert_allclose(edges(track), [0, 3, 4.75, 7])
    assert [clock(seconds) for seconds in (0, 59.4, 61, 600)] == ["0:00", "0:59", "1:01", "10:00"]


def test_embed_takes_the_tokens_that_are_asked_for(tmp_path, folder, music):
    encoder = carrara.load(folder)
    samples = torch.from_numpy(soundfile.read(music / "b.wav", dtype="float32")[0])[None]
    with torch.inference_mode():
        tokens = encoder.vit(encoder.normalised(encoder.mel(samples)))[1][0]
    out = tmp_path / "cls.parquet"
    chosen = ("-e", folder, "--layer", 1)
    assert run("embed", music / "b.wav", *chosen, "-o", out, "--set", "tokens=cls").exit_code == 0
    np.testing.assert_allclose(pq.read_table(out)["embedding"].to_pylist()[0], tokens[0], atol=1e-4, rtol=1e-4)
    assert json.loads(pq.read_schema(out).metadata[b"settings"])["encoder_settings"]["tokens"] == "cls"
    out = tmp_path / "frames.parquet"
    result = run("embed", music / "b.wav", *chosen, "-o", out, "--per", "frame", "--set", "tokens=frames")
    assert result.exit_code == 0, result.stderr
    np.testing.assert_allclose(pq.read_table(out)["start"].to_numpy(), np.arange(30) / 6.25)
    frames = tokens[2:].reshape(9, 30, 16).mean(0)
    np.testing.assert_allclose(pq.read_table(out)["embedding"].to_pylist(), frames, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("token=cls", "there is no setting 'token'. Did you mean 'tokens'"),
        ("width=32", "width would need other weights"),
        ("tokens", "write it as path=value"),
        ("drop_rows=[0,1,2,3,4,5,6,7,8]", "would drop all 9"),
    ],
)
def test_settings_that_cannot_be_changed_are_named(tmp_path, folder, music, change, said):
    result = run("embed", music, "-e", folder, "-o", tmp_path / "x.parquet", "--set", change)
    assert result.exit_code == 2
    assert said in result.stderr
