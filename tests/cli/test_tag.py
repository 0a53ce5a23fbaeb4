"""`carrara tag` as a person meets it: what is printed and kept, completing a folder, refusals."""

import csv
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from typer.testing import CliRunner

import carrara
from carrara.cli._main import app
from carrara.cli._tag_plot import style_picture
from carrara.encoders._hub.load import build, save_pretrained
from carrara.features import tags

RATE = 16_000
LABELS = [f"Rock---Kind {place}" for place in range(5)]


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a small MAEST that knows its labels and tells clips apart."""
    place = tmp_path_factory.mktemp("encoder") / "mine"
    encoder = build("maest-tiny", 1, {"dim": 16, "num_layers": 1, "num_heads": 1, "ffn_dim": 16, "classes": 5})
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
    assert (kept["encoder"], kept["labels"]) == ("mine", LABELS)
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
    named = json.loads(run(*command, "--window", 5).stdout)
    assert named["recordings"] == grown["recordings"]


def parts(out):
    """Return the recordings that each of a folder's tables holds, and what the largest says of each."""
    table = pq.read_table(out / "probabilities.parquet").to_pylist()
    recordings = json.loads((out / "styles.json").read_text())["recordings"]
    lines = csv.DictReader((out / "styles.csv").open())
    named = [{row["path"] for row in rows} for rows in (table, recordings, lines)]
    return named, {(row["path"], row["start"]): np.array(row["embedding"]) for row in table}


def test_a_folder_is_completed_also_where_earlier_recordings_are_gone(tmp_path, folder, music):
    out, names = tmp_path / "out", [str(music / "a.wav"), str(music / "b.wav")]
    run("tag", music, "-e", folder, "-o", tmp_path / "both")
    run("tag", names[0], "-e", folder, "-o", out)
    picture = (out / "a.png").stat().st_mtime_ns
    (music / "a.wav").unlink()
    told = json.loads(run("tag", names[1], "-e", folder, "-o", out, "--json").stdout)
    assert [recording["path"] for recording in told["recordings"]] == names[1:]
    tables, values = parts(out)
    assert tables == [set(names)] * 3
    both = parts(tmp_path / "both")[1]
    assert values.keys() == both.keys()
    for place, probability_K in both.items():
        np.testing.assert_allclose(values[place], probability_K, atol=1e-5)
    assert (out / "a.png").stat().st_mtime_ns == picture
    files = {file.name: file.read_bytes() for file in out.iterdir()}
    assert set(files) == {"a.png", "b.png", "probabilities.parquet", "styles.csv", "styles.json"}
    result = run("tag", names[0], tmp_path / "none.wav", "-e", folder, "-o", out)
    assert (result.exit_code, result.stdout) == (1, "")
    assert {file.name: file.read_bytes() for file in out.iterdir()} == files
    soundfile.write(names[1], np.zeros(RATE * 7), RATE)
    (out / "a.png").unlink()
    assert run("tag", *names, "-e", folder, "-o", out).exit_code == 1
    assert parts(out)[0] == [set(names)] * 3
    heard = {start for path, start in parts(out)[1] if path == names[1]}
    assert heard == {0.0, 5.0}
    assert (out / "a.png").read_bytes() == files["a.png"]


def test_what_a_killed_call_had_not_put_back_the_next_one_puts_back(tmp_path, folder, music, monkeypatch):
    out, put_back, calls = tmp_path / "out", tags._put_back, []

    def killed(former, table):
        calls.append(None)
        if len(calls) == 2:
            raise SystemExit(9)
        put_back(former, table)

    run("tag", music / "a.wav", "-e", folder, "-o", out)
    monkeypatch.setattr(tags, "_put_back", killed)
    assert run("tag", music / "b.wav", "-e", folder, "-o", out).exit_code == 9
    assert set(pq.read_table(out / "probabilities.parquet")["path"].to_pylist()) == {str(music / "b.wav")}
    monkeypatch.setattr(tags, "_put_back", put_back)
    soundfile.write(music / "c.wav", np.zeros(RATE * 6), RATE)
    run("tag", music / "c.wav", "-e", folder, "-o", out)
    tables, values = parts(out)
    assert tables == [{str(music / name) for name in ("a.wav", "b.wav", "c.wav")}] * 3
    soundfile.write(music / "d.wav", np.zeros(RATE * 8), RATE)
    run("tag", music / "c.wav", music / "d.wav", "-e", folder, "-o", out)
    grown = parts(out)[1]
    assert set(grown) - set(values) == {(str(music / "d.wav"), 0.0), (str(music / "d.wav"), 5.0)}
    for place, probability_K in values.items():
        np.testing.assert_array_equal(grown[place], probability_K)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--hop", 1], "another hop (5.0, now 1.0)"),
        (["--window", 4], "another window (5.0, now 4.0)"),
        (["--set", "every_column=2"], "another setting every_column (1, now 2)"),
        (["-e", "maest-tiny:random"], "another encoder ('mine', now 'maest-tiny:random')"),
    ],
)
def test_a_folder_of_other_styles_is_refused_before_anything_is_heard(tmp_path, folder, music, options, said):
    out = tmp_path / "out"
    run("tag", music / "a.wav", "-e", folder, "-o", out)
    files = {file.name: file.read_bytes() for file in out.iterdir()}
    result = run("tag", music / "b.wav", "-e", folder, "-o", out, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{out}: holds the styles of {said}; choose another folder" in result.stderr
    assert result.stderr.count("\n") == 1
    assert {file.name: file.read_bytes() for file in out.iterdir()} == files


@pytest.mark.parametrize("name", ["probabilities.parquet", "styles.json"])
def test_a_folder_with_something_else_of_these_names_is_refused(tmp_path, folder, music, name):
    (tmp_path / name).write_text("[]")
    result = run("tag", music, "-e", folder, "-o", tmp_path)
    assert result.exit_code == 1
    assert f"{tmp_path / name}: there already, and not made by `carrara tag`" in result.stderr
    assert (tmp_path / name).read_text() == "[]"


def test_each_recording_has_a_picture_of_its_own(tmp_path, folder):
    out, recordings = tmp_path / "out", ["x/a.wav", "y/a.wav", "y/a-2.wav", "z/A.wav", "z/cover.wav"]
    out.mkdir()
    (out / "Cover.png").write_bytes(b"precious")
    for seconds, name in enumerate(recordings, 2):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, np.random.default_rng(seconds).uniform(-0.3, 0.3, seconds * RATE), RATE)
    for paths in (recordings[:3], recordings):
        run("tag", *(tmp_path / name for name in paths), "-e", folder, "-o", out)
        kept = json.loads((out / "styles.json").read_text())["recordings"]
        assert [recording["path"] for recording in kept] == [str(tmp_path / name) for name in paths]
        pictures = [recording["picture"] for recording in kept]
        assert pictures == ["a.png", "a-2.png", "a-2-2.png", "A-3.png", "cover-2.png"][: len(paths)]
    assert (out / "Cover.png").read_bytes() == b"precious"
    for track, picture in zip(tags.read_tracks(out / "probabilities.parquet"), pictures):
        style_picture(tmp_path / "again.png", track, LABELS, 5)
        assert (out / picture).read_bytes() == (tmp_path / "again.png").read_bytes()


def test_over_time_is_a_line_a_window_of_the_recordings_styles(tmp_path, folder, music):
    encoder, path = carrara.load(folder), music / "a.wav"
    samples = torch.from_numpy(soundfile.read(path, dtype="float32")[0])[None]
    with torch.inference_mode():
        windows = torch.cat([encoder.tags(samples[:, start : start + 5 * RATE]) for start in (0, 5 * RATE, 10 * RATE)])
    best = np.argsort(-np.average(windows.numpy(), axis=0, weights=[5, 5, 2]))[:3]
    plain = run("tag", music, "-e", folder, "--top", 3).stdout.splitlines()
    lines = run("tag", music, "-e", folder, "--top", 3, "--over-time").stdout.splitlines()
    assert lines[:3] == plain[:3]
    assert lines[7:10] == plain[3:]
    assert lines[3].split("\t") == [str(path), "start", *(LABELS[style] for style in best)]
    for line, start, probability_K in zip(lines[4:7], (0, 5, 10), windows):
        assert line.split("\t")[:2] == [str(path), f"{start}.0 s"]
        told = [float(value) for value in line.split("\t")[2:]]
        np.testing.assert_allclose(told, probability_K[best], atol=6e-4)
    assert len(lines) == 3 + 4 + 3 + 2


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
