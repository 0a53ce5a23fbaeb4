"""`carrara tag` end to end: what it prints and writes, completing a folder, errors."""

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
from carrara.cli._tag_plot import write_heatmap
from carrara.encoders._hub.load import build_encoder, save_pretrained
from carrara.features.embed import embed_files
from carrara.features.tags import read_tracks

RATE = 16_000
LABELS = [f"Rock---Kind {index}" for index in range(5)]


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a small MAEST with labels whose tags differ between clips."""
    path = tmp_path_factory.mktemp("encoder") / "mine"
    encoder = build_encoder("maest-tiny", 1, {"dim": 16, "num_layers": 1, "num_heads": 1, "ffn_dim": 16, "classes": 5})
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(20)
    encoder.settings = encoder.settings.model_copy(update={"labels": tuple(LABELS)})
    save_pretrained(encoder, path)
    return path


@pytest.fixture
def music(tmp_path):
    path = tmp_path / "music"
    path.mkdir()
    for name, seconds in (("a.wav", 12.0), ("b.wav", 5.0)):
        soundfile.write(path / name, np.random.default_rng(len(name)).uniform(-0.3, 0.3, round(seconds * RATE)), RATE)
    return path


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_output_is_what_the_encoder_predicts(tmp_path, folder, music):
    encoder = carrara.load(folder)
    samples = torch.from_numpy(soundfile.read(music / "a.wav", dtype="float32")[0])
    starts = [0, 5, 10]
    with torch.inference_mode():
        windows = torch.cat(
            [encoder.predict_tags(samples[None, start * RATE : (start + 5) * RATE]) for start in starts]
        ).numpy()
    mean = np.average(windows, axis=0, weights=[5, 5, 2])
    best = np.argsort(-mean)[:2]
    result = run("tag", music, "-e", folder, "--top", 2, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    header, *lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert header == ["path", "tag", "probability", "strongest_at_seconds"]
    assert len(lines) == 4
    for line, tag in zip(lines, best):
        assert line[:2] == [str(music / "a.wav"), LABELS[tag]]
        assert float(line[2]) == pytest.approx(mean[tag], abs=6e-4)
        assert float(line[3]) == starts[windows[:, tag].argmax()]
    table = pq.read_table(tmp_path / "out" / "probabilities.parquet")
    np.testing.assert_allclose(np.stack(table["embedding"].to_numpy())[:3], windows, atol=1e-5)
    summary = json.loads((tmp_path / "out" / "tags.json").read_text())
    assert (summary["encoder"], summary["labels"]) == ("mine", LABELS)
    assert [window["duration"] for window in summary["recordings"][0]["windows"]] == [5, 5, 2]
    rows = list(csv.DictReader((tmp_path / "out" / "tags.csv").open()))
    assert len(rows) == 4 * 2
    for row in rows[:6]:
        window = starts.index(float(row["start"]))
        assert float(row["probability"]) == pytest.approx(windows[window, LABELS.index(row["tag"])], abs=1e-4)
    for name in ("a.png", "b.png"):
        assert (tmp_path / "out" / name).read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_the_same_command_embeds_only_what_is_new(tmp_path, folder, music):
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


def contents(out):
    """Return the recordings that each file of a folder holds, and the probabilities of each window."""
    table = pq.read_table(out / "probabilities.parquet").to_pylist()
    recordings = json.loads((out / "tags.json").read_text())["recordings"]
    lines = csv.DictReader((out / "tags.csv").open())
    named = [{row["path"] for row in rows} for rows in (table, recordings, lines)]
    return named, {(row["path"], row["start"]): np.array(row["embedding"]) for row in table}


def test_a_folder_is_extended_although_earlier_recordings_are_missing(tmp_path, folder, music):
    out, names = tmp_path / "out", [str(music / "a.wav"), str(music / "b.wav")]
    run("tag", music, "-e", folder, "-o", tmp_path / "both")
    run("tag", names[0], "-e", folder, "-o", out)
    picture = (out / "a.png").stat().st_mtime_ns
    (music / "a.wav").unlink()
    printed = json.loads(run("tag", names[1], "-e", folder, "-o", out, "--json").stdout)
    assert [recording["path"] for recording in printed["recordings"]] == names[1:]
    tables, values = contents(out)
    assert tables == [set(names)] * 3
    both = contents(tmp_path / "both")[1]
    assert values.keys() == both.keys()
    for window, probability_K in both.items():
        np.testing.assert_allclose(values[window], probability_K, atol=1e-5)
    assert (out / "a.png").stat().st_mtime_ns == picture
    files = {file.name: file.read_bytes() for file in out.iterdir()}
    assert set(files) == {"a.png", "b.png", "probabilities.parquet", "tags.csv", "tags.json"}
    result = run("tag", names[0], tmp_path / "none.wav", "-e", folder, "-o", out)
    assert (result.exit_code, result.stdout) == (1, "")
    assert {file.name: file.read_bytes() for file in out.iterdir()} == files
    soundfile.write(names[1], np.zeros(RATE * 7), RATE)
    (out / "a.png").unlink()
    assert run("tag", *names, "-e", folder, "-o", out).exit_code == 1
    assert contents(out)[0] == [set(names)] * 3
    starts = {start for path, start in contents(out)[1] if path == names[1]}
    assert starts == {0.0, 5.0}
    assert (out / "a.png").read_bytes() == files["a.png"]


def test_results_of_an_interrupted_command_are_kept(tmp_path, folder, music, monkeypatch):
    out = tmp_path / "out"
    for name, seconds in (("c.wav", 6), ("d.wav", 8)):
        soundfile.write(music / name, np.zeros(RATE * seconds), RATE)

    def interrupted(*arguments):
        for chunk in embed_files(*arguments):
            yield chunk
            if chunk.table is None:
                raise KeyboardInterrupt

    run("tag", music / "a.wav", "-e", folder, "-o", out)
    with monkeypatch.context() as patch:
        patch.setattr("carrara.features.parquet.embed_files", interrupted)
        assert run("tag", music / "b.wav", music / "d.wav", "-e", folder, "-o", out).exit_code == 130
    run("tag", music / "c.wav", "-e", folder, "-o", out)
    tables, values = contents(out)
    assert tables == [{str(music / name) for name in ("a.wav", "b.wav", "c.wav")}] * 3
    run("tag", music / "c.wav", music / "d.wav", "-e", folder, "-o", out)
    grown = contents(out)[1]
    assert set(grown) - set(values) == {(str(music / "d.wav"), 0.0), (str(music / "d.wav"), 5.0)}
    for window, probability_K in values.items():
        np.testing.assert_array_equal(grown[window], probability_K)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hop", 1], "another hop_seconds (5.0, now 1.0)"),
        (["--window", 4], "another window_seconds (5.0, now 4.0)"),
        (["--set", "every_column=2"], "another setting every_column (1, now 2)"),
        (["-e", "maest-tiny:random"], "another encoder ('mine tags', now 'maest-tiny:random tags')"),
    ],
)
def test_a_folder_of_other_settings_is_refused_and_unchanged(tmp_path, folder, music, options, message):
    out = tmp_path / "out"
    run("tag", music / "a.wav", "-e", folder, "-o", out)
    files = {file.name: file.read_bytes() for file in out.iterdir()}
    result = run("tag", music / "b.wav", "-e", folder, "-o", out, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{out / 'probabilities.parquet'}: made with {message}; choose another -o" in result.stderr
    assert result.stderr.count("\n") == 1
    assert {file.name: file.read_bytes() for file in out.iterdir()} == files


@pytest.mark.parametrize("name", ["probabilities.parquet", "tags.json"])
def test_a_folder_with_other_files_of_these_names_is_refused(tmp_path, folder, music, name):
    (tmp_path / name).write_text("[]")
    result = run("tag", music, "-e", folder, "-o", tmp_path)
    assert result.exit_code == 1
    assert f"{tmp_path / name}: exists already, and was not made by this command" in result.stderr
    assert (tmp_path / name).read_text() == "[]"


@pytest.mark.slow
def test_each_recording_has_a_picture_of_its_own(tmp_path, folder):
    out, recordings = tmp_path / "out", ["x/a.wav", "y/a.wav", "y/a-2.wav", "z/A.wav", "z/cover.wav"]
    out.mkdir()
    (out / "Cover.png").write_bytes(b"precious")
    for seconds, name in enumerate(recordings, 2):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, np.random.default_rng(seconds).uniform(-0.3, 0.3, seconds * RATE), RATE)
    for paths in (recordings[:3], recordings):
        run("tag", *(tmp_path / name for name in paths), "-e", folder, "-o", out)
        recordings_json = json.loads((out / "tags.json").read_text())["recordings"]
        assert [recording["path"] for recording in recordings_json] == [str(tmp_path / name) for name in paths]
        pictures = [recording["picture"] for recording in recordings_json]
        assert pictures == ["a.png", "a-2.png", "a-2-2.png", "A-3.png", "cover-2.png"][: len(paths)]
    assert (out / "Cover.png").read_bytes() == b"precious"
    for track, picture in zip(read_tracks(out / "probabilities.parquet"), pictures):
        write_heatmap(tmp_path / "again.png", track, LABELS, 5)
        assert (out / picture).read_bytes() == (tmp_path / "again.png").read_bytes()


def test_over_time_prints_a_line_for_each_window(tmp_path, folder, music):
    encoder, path = carrara.load(folder), music / "a.wav"
    samples = torch.from_numpy(soundfile.read(path, dtype="float32")[0])[None]
    with torch.inference_mode():
        windows = torch.cat(
            [encoder.predict_tags(samples[:, start : start + 5 * RATE]) for start in (0, 5 * RATE, 10 * RATE)]
        )
    best = np.argsort(-np.average(windows.numpy(), axis=0, weights=[5, 5, 2]))[:3]
    plain = run("tag", music, "-e", folder, "--top", 3).stdout.splitlines()[1:]
    lines = run("tag", music, "-e", folder, "--top", 3, "--over-time").stdout.splitlines()[1:]
    assert lines[:3] == plain[:3]
    assert lines[7:10] == plain[3:]
    assert lines[3].split("\t") == [str(path), "start_seconds", *(LABELS[tag] for tag in best)]
    for line, start, probability_K in zip(lines[4:7], (0, 5, 10), windows):
        assert line.split("\t")[:2] == [str(path), f"{start}.0"]
        printed = [float(value) for value in line.split("\t")[2:]]
        np.testing.assert_allclose(printed, probability_K[best], atol=6e-4)
    assert len(lines) == 3 + 4 + 3 + 2


def test_short_and_broken_recordings_are_reported_and_the_rest_go_on(tmp_path, folder, music):
    soundfile.write(music / "short.wav", np.zeros(4000), RATE)
    (music / "empty.wav").touch()
    result = run("tag", music, "-e", folder, "--json")
    assert result.exit_code == 1
    assert "short.wav: 0.250 s are less than one patch of 0.256 s" in result.stderr
    assert "empty.wav: empty" in result.stderr
    printed = json.loads(result.stdout)
    assert len(printed["recordings"]) == 2
    assert len(printed["failed"]) == 2
    alone = run("tag", music / "short.wav", "-e", folder)
    assert (alone.exit_code, alone.stdout) == (1, "")


def test_labels_come_from_the_given_file(tmp_path, music):
    nameless = ("-e", "maest-tiny:random", "--top", 1)
    assert "\tstyle " in run("tag", music / "b.wav", *nameless).stdout
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps([f"Jazz---{index}" for index in range(400)]))
    assert "\tJazz---" in run("tag", music / "b.wav", *nameless, "--labels", labels).stdout
    labels.write_text(json.dumps(LABELS))
    result = run("tag", music / "b.wav", *nameless, "--labels", labels)
    assert result.exit_code == 2
    assert "labels.json: 5 names for a head of 400 styles: none for style 5, 6, 7, …" in result.stderr


def test_labels_that_differ_from_the_encoders_are_reported(tmp_path, folder, music):
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps([*LABELS[:4], "Rock---Surf"]))
    result = run("tag", music, "-e", folder, "--labels", labels)
    assert result.exit_code == 2
    assert "1 that it does not have ('Rock---Surf'); 1 of its own missing ('Rock---Kind 4')" in result.stderr


def test_an_encoder_without_tags_is_refused(music):
    result = run("tag", music, "-e", "noise")
    assert result.exit_code == 2
    assert "noise: predicts no tags" in result.stderr
