"""Texts from the command line: the layer joint, `find --text`, and `tag --labels`, against cosines in numpy."""

import csv
import json

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

import carrara
from carrara.cli._main import app

RATE = 48_000
SECONDS = {"a": 4.0, "b": 12.0, "c": 10.0, "d": 3.0}


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    folder = tmp_path_factory.mktemp("music")
    for index, (name, seconds) in enumerate(SECONDS.items()):
        time = np.arange(int(seconds * RATE)) / RATE
        tone = np.sin(2 * np.pi * 200 * 2**index * time) * np.exp(-time * index)
        noise = np.random.default_rng(index).standard_normal(len(time))
        soundfile.write(folder / f"{name}.wav", 0.2 * tone + 0.02 * index * noise, RATE, subtype="FLOAT")
    return folder


@pytest.fixture(scope="module")
def table(clap, music, tmp_path_factory):
    table = tmp_path_factory.mktemp("table") / "joint.parquet"
    result = run("embed", music, "-e", clap, "--layer", "joint", "-o", table)
    assert result.exit_code == 0, result.output
    return table


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def expected(clap, music):
    """The mean over the windows of 10 s, weighted by their length, of each recording."""
    encoder = carrara.load(clap)
    means = {}
    for name in SECONDS:
        samples, _ = soundfile.read(music / f"{name}.wav", dtype="float32")
        windows = [samples[start : start + 10 * RATE] for start in range(0, len(samples), 10 * RATE)]
        vectors = [encoder.encode_audio_joint(torch.from_numpy(window)[None])[0].numpy() for window in windows]
        means[name] = np.average(vectors, axis=0, weights=[len(window) for window in windows])
    return means


def text_vector(clap, text):
    return carrara.load(clap).encode_text([text])[0].numpy()


def test_the_table_holds_the_vectors_in_the_joint_space(table, expected):
    from pyarrow import parquet

    content = parquet.read_table(table).to_pylist()
    assert {row["layer"] for row in content} == {"joint"}
    for row in content:
        name = row["path"].rpartition("/")[2][0]
        np.testing.assert_allclose(row["embedding"], expected[name], atol=1e-5)


@pytest.mark.parametrize("text", ["heavy metal", "a solo classical piano"])
def test_a_text_finds_the_recordings_in_the_order_of_the_cosine(clap, table, expected, text):
    result = run("find", "--text", text, "--in", table, "-e", clap, "--json")
    assert result.exit_code == 0, result.output
    found = [(item["path"].rpartition("/")[2][0], item["similarity"]) for item in json.loads(result.stdout)]
    cosines = {name: float(unit(mean) @ text_vector(clap, text)) for name, mean in expected.items()}
    assert [name for name, _ in found] == sorted(cosines, key=lambda name: -cosines[name])
    np.testing.assert_allclose([value for _, value in found], [cosines[name] for name, _ in found], atol=1e-5)


def test_a_text_beside_a_recording_counts_as_much_as_it(clap, table, expected, music):
    result = run("find", music / "a.wav", "--text", "reggae", "--in", table, "-e", clap, "--json")
    assert result.exit_code == 0, result.output
    query = unit(unit(expected["a"]) + text_vector(clap, "reggae"))
    found = json.loads(result.stdout)
    assert len(found) == 3
    for item in found:
        name = item["path"].rpartition("/")[2][0]
        assert item["similarity"] == pytest.approx(float(unit(expected[name]) @ query), abs=1e-5)


def test_texts_work_on_an_index_and_from_python(clap, table, tmp_path):
    assert run("index", table, "-o", tmp_path / "joint.index").exit_code == 0
    result = run("find", "--text", "reggae", "--in", tmp_path / "joint.index", "-e", clap, "--json")
    direct = carrara.find([], table, encoder=clap, text="reggae").to_pylist()
    assert [item["path"] for item in json.loads(result.stdout)] == [item["path"] for item in direct]


def test_tables_that_texts_cannot_be_compared_with_are_refused(clap, music, tmp_path):
    for encoder in ("mfcc", clap):
        table = tmp_path / f"{encoder == 'mfcc'}.parquet"
        assert run("embed", music / "a.wav", "-e", encoder, "-o", table).exit_code == 0
        result = run("find", "--text", "jazz", "--in", table)
        assert result.exit_code == 2
        assert f"holds the layer mean of {'mfcc' if encoder == 'mfcc' else clap.name}" in result.stderr
        assert "-e muq-mulan --layer joint" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", "jazz", "--standardise"], "a text is compared with the embeddings as they are"),
        (["--text", "jazz", "--path", "a.wav", "b.wav"], "or --path A B, and not both"),
        ([], "such as a recording or --text"),
    ],
)
def test_queries_that_do_not_go_together_are_refused(table, arguments, message):
    result = run("find", *arguments, "--in", table)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_only_encoders_with_a_text_tower_have_the_layer(music, tmp_path, clap):
    result = run("embed", music / "a.wav", "-e", "mfcc", "--layer", "joint", "-o", tmp_path / "x.parquet")
    assert result.exit_code == 2 and "has the layers 0 to 0, last, mean, all" in result.stderr
    result = run("embed", music, "-e", clap, "--layer", "joint", "--per", "frame", "-o", tmp_path / "x.parquet")
    assert result.exit_code == 2 and "--per frame" in result.stderr


@pytest.mark.parametrize("form", ["commas", "lines", "json"])
def test_labels_are_scored_by_the_cosine(clap, music, tmp_path, expected, form):
    labels = ["reggae", "heavy metal", "string quartet"]
    given = ", ".join(labels)
    if form != "commas":
        file = tmp_path / ("labels.json" if form == "json" else "labels")
        file.write_text(json.dumps(labels) if form == "json" else "\n".join([*labels, "", labels[0]]))
        given = file
    result = run("tag", music / "b.wav", "-e", clap, "--labels", given, "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["labels"] == labels
    (recording,) = summary["recordings"]
    cosines = {label: float(expected["b"] @ text_vector(clap, label)) for label in labels}
    assert [tag["tag"] for tag in recording["tags"]] == sorted(labels, key=lambda label: -cosines[label])
    for tag in recording["tags"]:
        assert tag["similarity"] == pytest.approx(cosines[tag["tag"]], abs=1e-4)
    assert len(recording["windows"]) == 2


def test_a_folder_of_similarities_names_them_so_and_is_not_continued_with_other_labels(clap, music, tmp_path):
    command = ("tag", music, "-e", clap, "-o", tmp_path / "tags")
    result = run(*command, "--labels", "reggae,brass band")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].split("\t") == ["path", "tag", "similarity", "strongest_at_seconds"]
    with open(tmp_path / "tags" / "tags.csv", newline="") as file:
        assert next(csv.reader(file)) == ["path", "start", "duration", "tag", "similarity"]
    assert run(*command, "--labels", "reggae,brass band").exit_code == 0
    other = run(*command, "--labels", "reggae,techno")
    assert other.exit_code == 2 and "made" in other.stderr


@pytest.mark.parametrize(
    ("encoder", "labels", "message"),
    [
        (None, [], 'name them with --labels "jazz,heavy metal", or in a file'),
        (None, ["--labels", " , "], "names no label"),
        (None, ["--labels", "missing.txt"], "missing.txt: does not exist"),
        ("maest-tiny:random", ["--labels", "jazz"], "no such file; maest-tiny:random has tags of its own"),
    ],
)
def test_labels_that_do_not_suit_are_refused(clap, music, encoder, labels, message):
    result = run("tag", music / "a.wav", "-e", encoder or clap, *labels)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
