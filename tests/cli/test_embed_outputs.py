"""`carrara embed -o` an index, or an Arrow, Lance or FAISS file: the rows of the Parquet file, or refused."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import soundfile
from typer.testing import CliRunner

from carrara.cli._main import app
from carrara.features.neighbour_index import NeighbourIndex

RATE = 16_000


@pytest.fixture(autouse=True)
def music(tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "music").mkdir()
    for number in range(8):
        write(number)


def write(number, seed=None):
    noise = np.random.default_rng(number if seed is None else seed).uniform(-0.3, 0.3, RATE)
    soundfile.write(f"music/{number}.wav", np.cumsum(noise) / 20, RATE)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def embed(output, *more):
    result = run("embed", "music", "-e", "mfcc", "-o", output, "--json", *more)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("suffix", ["arrow", "feather"])
def test_an_arrow_file_is_the_parquet_file(suffix):
    embed("out.parquet", "--per", "window", "--window", 0.4)
    embed(f"out.{suffix}", "--per", "window", "--window", 0.4)
    with pyarrow.OSFile(f"out.{suffix}") as file:
        table = pyarrow.ipc.open_file(file).read_all()
    assert table.equals(pyarrow.feather.read_table(f"out.{suffix}"))
    expected = pq.read_table("out.parquet")
    assert sorted(table.to_pylist(), key=str) == sorted(expected.to_pylist(), key=str)
    assert table.schema.metadata[b"encoder"] == b"mfcc"
    result = run("embed", "music/0.wav", "-e", "mfcc", "-o", f"out.{suffix}")
    assert result.exit_code == 2 and "holds music/1.wav, which is not named" in result.stderr
    embed(f"out.{suffix}")  # with other settings, which is written anew


def test_a_lance_dataset_is_the_parquet_file():
    lance = pytest.importorskip("lance")
    embed("out.parquet", "--layer", "all", "--per", "window", "--window", 0.4)
    embed("lib.lance", "--layer", "all", "--per", "window", "--window", 0.4)
    dataset = lance.dataset("lib.lance")
    rows = dataset.to_table().to_pylist()
    assert sorted(rows, key=str) == sorted(pq.read_table("out.parquet").to_pylist(), key=str)
    assert dataset.schema.metadata[b"encoder"] == b"mfcc"
    query = np.float32(rows[5]["embedding"])
    nearest = dataset.to_table(nearest={"column": "embedding", "q": query, "k": 1})  # no index of Lance's is needed
    assert nearest["path"].to_pylist() == [rows[5]["path"]]
    result = run("embed", "music/0.wav", "-e", "mfcc", "-o", "lib.lance")
    assert result.exit_code == 2 and "holds music/1.wav, which is not named" in result.stderr
    write(8)
    assert embed("lib.lance")["rows"] == 9
    assert lance.dataset("lib.lance").count_rows() == 9 and not Path("lib.lance.parts").exists()
    assert lance.dataset("lib.lance", version=1).count_rows() == len(rows)


def test_a_faiss_index_returns_cosines():
    faiss = pytest.importorskip("faiss")
    embed("out.parquet")
    embed("lib.faiss")
    index = faiss.read_index("lib.faiss")
    table = {row["path"]: np.float64(row["embedding"]) for row in pq.read_table("out.parquet").to_pylist()}
    with open("lib.faiss.rows.csv", newline="") as file:
        names = [row["path"] for row in csv.DictReader(file)]
    assert sorted(names) == sorted(table) and index.ntotal == len(names)
    unit = np.stack([table[name] / np.linalg.norm(table[name]) for name in names])
    similarity, order = index.search(np.float32(unit[3:4]), 8)
    expected = unit @ unit[3]
    np.testing.assert_array_equal(order[0], np.argsort(-expected))
    np.testing.assert_allclose(similarity[0], np.sort(expected)[::-1], atol=1e-6)
    result = run("embed", "music/0.wav", "-e", "mfcc", "-o", "lib.faiss")
    assert result.exit_code == 2 and "holds music/1.wav, which is not named" in result.stderr
    write(8)
    embed("lib.faiss")
    assert faiss.read_index("lib.faiss").ntotal == 9


@pytest.mark.parametrize(("ending", "package"), [("faiss", "faiss"), ("lance", "lance")])
def test_a_package_that_is_missing_is_named_before_anything_is_embedded(monkeypatch, ending, package):
    monkeypatch.setitem(sys.modules, package, None)
    result = run("embed", "music", "-e", "mfcc", "-o", f"lib.{ending}")
    assert result.exit_code == 2 and result.stderr.strip().endswith(f"pip install 'carrara[{ending}]'")
    assert len(result.stderr.strip().splitlines()) == 1 and {path.name for path in Path().iterdir()} <= {
        "music",
        "home",
    }


def test_a_foreign_folder_is_no_lance_dataset():
    pytest.importorskip("lance")
    Path("lib.lance").mkdir()
    Path("lib.lance/mine").write_text("mine")
    result = run("embed", "music", "-e", "mfcc", "-o", "lib.lance")
    assert result.exit_code == 2 and "no table of embeddings" in result.stderr
    assert [path.name for path in Path("lib.lance").iterdir()] == ["mine"]


def test_a_foreign_file_is_not_replaced():
    Path("out.arrow").write_bytes(b"something else")
    result = run("embed", "music", "-e", "mfcc", "-o", "out.arrow")
    assert result.exit_code == 2 and "no table of embeddings" in result.stderr
    assert Path("out.arrow").read_bytes() == b"something else"


def test_an_index_is_written_and_brought_up_to_date():
    pytest.importorskip("usearch")
    embed("out.parquet")
    assert embed("lib.index")["embedded"] == 8
    index = NeighbourIndex("lib.index")
    table = {row["path"]: row["embedding"] for row in pq.read_table("out.parquet").to_pylist()}
    assert {path.as_py() for path in index.path_R} == table.keys()
    for row, path in enumerate(index.path_R.to_pylist()):
        np.testing.assert_array_equal(index.vectors(np.array([row]))[0], np.float32(table[path]))
    found = run("find", "music/3.wav", "--in", "lib.index", "-n", 3, "--json")
    exact = run("find", "music/3.wav", "--in", "out.parquet", "-n", 3, "--json")
    assert found.exit_code == 0, found.stderr
    names = [[hit["path"] for hit in json.loads(each.stdout)] for each in (found, exact)]
    assert names[0] == names[1]
    write(8)
    write(0, seed=100)
    report = embed("lib.index")
    assert (report["embedded"], report["reused"]) == (2, 7)
    index = NeighbourIndex("lib.index")
    assert len(index) == 9
    (row,) = index.rows_of("music/0.wav")
    embed("new.parquet")
    now = {entry["path"]: entry["embedding"] for entry in pq.read_table("new.parquet").to_pylist()}
    np.testing.assert_array_equal(index.vectors(np.array([row]))[0], np.float32(now["music/0.wav"]))


def test_what_no_index_holds_is_refused_before_anything_is_embedded(tmp_path):
    pytest.importorskip("usearch")
    result = run("embed", "music", "-e", "mfcc", "-o", "lib.index", "--layer", "all")
    assert result.exit_code == 2 and "an index holds one layer" in result.stderr
    (tmp_path / "other.index").mkdir()
    (tmp_path / "other.index" / "file").write_text("mine")
    result = run("embed", "music", "-e", "mfcc", "-o", "other.index")
    assert result.exit_code == 1 and "holds other files, such as file" in result.stderr
    assert not (tmp_path / "other.index" / ".table").exists()
