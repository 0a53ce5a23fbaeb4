"""Neighbours: exact search and index against scikit-learn, queries, exclusions, walks, playlists and refusals."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest
import soundfile
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner

import carrara
from carrara.cli._main import app
from carrara.core.errors import StoreError, UsageError
from carrara.features.embedding_table import EmbeddingTable
from carrara.features.neighbour_index import INDEX_FILE, update_index
from carrara.features.search import points_on_arc

RATE = 16_000
SETTINGS = {"encoder": "mfcc", "weights_sha256": "0" * 64, "output_version": 1, "encoder_settings": {"size": 1}}


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def write_table(path, vectors, names=None, layers=None, settings=SETTINGS, rows_in_group=50):
    """Write a table as `carrara embed` does; rows of equal names are passages of 10 s."""
    names = names or [f"{number}.wav" for number in range(len(vectors))]
    starts = [10.0 * names[:row].count(name) if len(set(names)) < len(names) else 0.0 for row, name in enumerate(names)]
    files = [[name, f"sha of {name}"] for name in dict.fromkeys(names)]
    dim = vectors.shape[1]
    schema = pyarrow.schema(
        {
            "path": pyarrow.string(),
            "start": pyarrow.float64(),
            "duration": pyarrow.float64(),
            "layer": pyarrow.string(),
            "embedding": pyarrow.list_(pyarrow.float32(), dim),
        }
    ).with_metadata({"settings": json.dumps(settings)})
    columns = [names, starts, [10.0] * len(names), layers or ["mean"] * len(names), list(vectors.astype(np.float32))]
    writer = pq.ParquetWriter(path, schema)
    writer.write_table(pyarrow.table(columns, schema=schema), row_group_size=rows_in_group)
    writer.add_key_value_metadata({"files": json.dumps(files)})
    writer.close()
    return path


def clustered(rows, dim=32, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((20, dim))[rng.integers(0, 20, rows)] + 0.5 * rng.standard_normal((rows, dim)) + 1.0


def reference(vectors, query, count, standardise):
    if standardise:
        vectors = StandardScaler().fit_transform(vectors)
    fitted = NearestNeighbors(metric="cosine", algorithm="brute").fit(vectors)
    distances, rows = fitted.kneighbors(vectors[[query]], count + 1)
    return rows[0, 1:].tolist(), 1 - distances[0, 1:]


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("indexed", [False, True])
def test_the_nearest_are_those_of_scikit_learn(tmp_path, standardise, indexed):
    vectors = clustered(400, seed=1)
    library = write_table(tmp_path / "lib.parquet", vectors)
    if indexed:
        update_index(EmbeddingTable(library, standardise=standardise), tmp_path / "lib.index")
        library = tmp_path / "lib.index"
    for query in (0, 123, 399):
        table = carrara.find(f"row:{query}", library, 12, standardise=standardise)
        rows, similarity = reference(vectors, query, 12, standardise)
        assert table["row"].to_pylist() == rows
        np.testing.assert_allclose(table["similarity"].to_numpy(), similarity, atol=1e-5)
        assert table["path"].to_pylist() == [f"{row}.wav" for row in rows]


@pytest.mark.parametrize("indexed", [False, True])
def test_recordings_come_once_passages_each(tmp_path, indexed):
    vectors = clustered(300)
    names = [f"{row // 5}.wav" for row in range(300)]
    library = write_table(tmp_path / "lib.parquet", vectors, names)
    if indexed:
        update_index(EmbeddingTable(library), tmp_path / "lib.index")
        library = tmp_path / "lib.index"
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    order = [row for row in np.argsort(-(unit @ unit[7])) if names[row] != "1.wav"]
    passages = carrara.find("row:7", library, 20, passages=True)
    assert passages["row"].to_pylist() == order[:20]
    assert passages["start"].to_pylist() == [10.0 * (row % 5) for row in order[:20]]
    best = [row for index, row in enumerate(order) if names[row] not in {names[other] for other in order[:index]}]
    assert carrara.find("row:7", library, 59)["row"].to_pylist() == best
    whole = vectors[5:10].mean(0)
    order = [row for row in np.argsort(-(unit @ whole)) if names[row] != "1.wav"]
    assert carrara.find("1.wav", library, 20, passages=True)["row"].to_pylist() == order[:20]


def test_several_queries_are_the_mean_of_their_unit_vectors(tmp_path):
    vectors = clustered(100)
    library = write_table(tmp_path / "lib.parquet", vectors)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    order = [row for row in np.argsort(-(unit @ (unit[3] + unit[40]))) if row not in (3, 40)]
    assert carrara.find(["row:3", "40.wav"], library, 9)["row"].to_pylist() == order[:9]


def test_layers_are_chosen(tmp_path):
    vectors = clustered(100)
    library = write_table(tmp_path / "lib.parquet", vectors, layers=["0", "1"] * 50)
    with pytest.raises(UsageError, match="has the layers 0, 1; choose one with --layer"):
        carrara.find("row:0", library)
    rows, _ = reference(vectors[1::2], 4, 5, False)
    assert carrara.find("row:4", library, 5, layer="1")["row"].to_pylist() == rows
    assert carrara.find("row:4", library, 5, layer="1")["path"].to_pylist() == [f"{2 * row + 1}.wav" for row in rows]
    with pytest.raises(UsageError, match="--layer 7"):
        carrara.find("row:0", library, layer="7")


def test_a_walk_leads_from_one_to_the_other(tmp_path):
    angles = np.radians(np.arange(0, 91, 2))
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    library = write_table(tmp_path / "lib.parquet", vectors)
    result = run("find", "--path", "0.wav", "45.wav", "--in", library, "-n", 6, "--json")
    assert [item["row"] for item in json.loads(result.stdout)] == [0, 9, 18, 27, 36, 45]


def test_results_differ_from_the_query_in_the_fields_that_are_named(tmp_path):
    vectors = clustered(60)
    library = write_table(tmp_path / "lib.parquet", vectors)
    artists = [f"Artist {row % 7}" for row in range(60)]
    (tmp_path / "songs.csv").write_text("path,artist\n" + "".join(f"{row}.wav,{a}\n" for row, a in enumerate(artists)))
    rows, _ = reference(vectors, 9, 59, False)
    expected = [row for row in rows if artists[row] != artists[9]][:10]
    table = carrara.find("row:9", library, exclude_same="artist", metadata=tmp_path / "songs.csv")
    assert table["row"].to_pylist() == expected
    assert len(carrara.find("row:9", library, exclude_same="folder")) == 0
    result = run("find", "row:9", "--in", library, "--exclude-same", "folder")
    assert result.exit_code == 0 and not result.stdout
    assert "no other recording is in it, without those of the same folder" in result.stderr
    with pytest.raises(UsageError, match=r"songs.csv: has no column 'artists'. Did you mean 'artist'\?"):
        carrara.find("row:9", library, exclude_same="artists", metadata=tmp_path / "songs.csv")


def test_artists_are_read_from_the_tags_of_files(tmp_path):
    for number, (suffix, artist) in enumerate([("mp3", "A"), ("flac", "a"), ("ogg", "B"), ("wav", "A")]):
        with soundfile.SoundFile(f"{number}.{suffix}", "w", RATE, 1) as file:
            file.artist = artist
            file.write(np.zeros(4096))
    names = ["0.mp3", "1.flac", "2.ogg", "3.wav"]
    library = write_table(tmp_path / "lib.parquet", clustered(4), names)
    assert carrara.find("row:0", library, exclude_same=["artist"])["path"].to_pylist() == ["2.ogg"]


def test_queries_that_the_table_does_not_hold_are_embedded_with_its_encoder(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(4):
        sound = np.sin(2 * np.pi * 220 * 2 ** (number / 2) * np.arange(4 * RATE) / RATE)
        soundfile.write(f"{number}.wav", 0.3 * sound + 0.01 * rng.standard_normal(4 * RATE), RATE)
    assert run("embed", "0.wav", "1.wav", "2.wav", "-e", "mfcc", "-o", "lib.parquet").exit_code == 0
    span, _ = soundfile.read("3.wav", frames=2 * RATE, start=RATE)
    soundfile.write("span.wav", span, RATE, subtype="FLOAT")
    by_span = carrara.find("3.wav@1-0:03", "lib.parquet")
    by_file = carrara.find("span.wav", "lib.parquet")
    assert by_span["path"].to_pylist() == by_file["path"].to_pylist()
    np.testing.assert_allclose(by_span["similarity"], by_file["similarity"], atol=5e-3)  # its edges have context
    embedded = carrara.embed("3.wav", "mfcc")["embedding"][0].as_py()
    stored = np.stack(pq.read_table("lib.parquet")["embedding"].to_numpy())
    cosine = stored @ embedded / np.linalg.norm(stored, axis=1) / np.linalg.norm(embedded)
    whole = carrara.find("3.wav", "lib.parquet")
    np.testing.assert_allclose(np.sort(whole["similarity"]), np.sort(cosine), atol=1e-6)
    os.replace("3.wav", "0.wav")  # a name of the table, another recording
    np.testing.assert_allclose(
        np.sort(carrara.find("0.wav", "lib.parquet")["similarity"]), np.sort(cosine)[:2], atol=0.2
    )
    for query, cure in [
        ("3.wav", "no such file, and no recording of lib.parquet"),
        ("1.wav@3-2", "the span ends before it begins"),
        ("1.wav@1:2:3:4-9", "not a time"),
        ("1.wav@9-10", "no samples at 9 s, the file is shorter"),
        ("row:9", r"no such row \(0 to 2\)"),
    ]:
        result = run("find", query, "--in", "lib.parquet")
        assert result.exit_code and len(result.stderr.splitlines()) == 1, query
        with pytest.raises(carrara_error(result), match=cure):
            carrara.find(query, "lib.parquet")


def carrara_error(result):
    from carrara.core.errors import AudioError

    return AudioError if result.exit_code == 1 else UsageError


def test_another_encoder_or_other_weights_are_refused(tmp_path):
    soundfile.write("a.wav", np.sin(np.arange(RATE) / 9), RATE)
    soundfile.write("b.wav", np.sin(np.arange(RATE) / 7), RATE)
    assert run("embed", "a.wav", "-e", "mert-tiny:random", "-o", "lib.parquet").exit_code == 0
    assert len(carrara.find("b.wav", "lib.parquet")) == 1
    pq.write_table(carrara.embed("a.wav", "mert-tiny:random"), "own.parquet")
    assert carrara.find("b.wav", "own.parquet") == carrara.find("b.wav", "lib.parquet")
    result = run("find", "b.wav", "--in", "lib.parquet", "-e", "mert-tiny:random-1")
    assert result.exit_code == 2 and "other weights of mert-tiny:random" in result.stderr
    assert run("index", "lib.parquet").exit_code == 0
    assert run("embed", "a.wav", "-e", "mert-tiny:random-1", "-o", "lib.parquet", "--overwrite").exit_code == 0
    result = run("index", "lib.parquet")
    assert result.exit_code == 2 and "lib.index: an index of another encoder" in result.stderr
    assert run("index", "lib.parquet", "--rebuild").exit_code == 0


def test_a_playlist_names_files_absolutely_and_times_of_passages(tmp_path):
    library = write_table(tmp_path / "lib.parquet", np.eye(4) + 0.1, ["a/x.wav", "b/y.wav", "b/y.wav", "s3://c/z.mp3"])
    assert run("find", "a/x.wav", "--in", library, "-o", "list.m3u8", "--passages").exit_code == 0
    assert (tmp_path / "list.m3u8").read_text().splitlines() == [
        "#EXTM3U",
        "#EXTINF:10,y",
        str(tmp_path / "b/y.wav"),
        "#EXTINF:10,y",
        "#EXTVLCOPT:start-time=10",
        "#EXTVLCOPT:stop-time=20",
        str(tmp_path / "b/y.wav"),
        "#EXTINF:10,z",
        "s3://c/z.mp3",
    ]
    printed = run("find", "a/x.wav", "--in", library, "-o", "-", "--passages").stdout
    assert printed == (tmp_path / "list.m3u8").read_text()
    assert run("find", "a/x.wav", "--in", library, "-o", "list.txt").exit_code == 2


def test_names_with_line_ends_and_names_that_are_not_utf8(tmp_path):
    """A line end in a name is neither a line of the list nor of a playlist, which could name another file."""
    name = "a\n/other/x.mp3"
    write_table(tmp_path / "lib.parquet", np.eye(3) + 0.1, ["q.wav", name, "c.wav"])
    lines = run("find", "q.wav", "--in", "lib.parquet").stdout.splitlines()
    assert len(lines) == 2 and any(line.endswith("\ta\\n/other/x.mp3") for line in lines)
    playlist = run("find", "q.wav", "--in", "lib.parquet", "-o", "-").stdout.splitlines()
    assert Path(tmp_path / name).as_uri() in playlist and not any(line.startswith("/other") for line in playlist)
    result = run("find", "c\udcff.wav", "--in", "lib.parquet")
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1 and "c\\udcff.wav" in result.stderr


def test_an_index_takes_new_recordings_and_loses_removed_ones(tmp_path):
    vectors = clustered(500)
    library, folder = tmp_path / "lib.parquet", tmp_path / "lib.index"
    write_table(library, vectors[:400])
    assert json.loads(run("index", library, "--json").stdout) == {
        "index": str(folder), "rows": 400, "added": 400, "removed": 0,
    }  # fmt: skip
    names = [f"{number}.wav" for number in range(500)]
    kept = [row for row in range(500) if row % 10]
    write_table(library, vectors[kept], [names[row] for row in kept])
    before = (folder / "vectors.f32").read_bytes()
    report = update_index(EmbeddingTable(library), folder)
    assert (report.rows, report.added, report.removed) == (450, 90, 40)
    assert (folder / "vectors.f32").read_bytes()[: len(before)] == before  # nothing was written again
    assert update_index(EmbeddingTable(library), folder).added == 0
    rows, _ = reference(vectors[kept], 17, 10, False)
    by_index = carrara.find(names[kept[17]], folder)
    assert by_index["path"].to_pylist() == [names[kept[row]] for row in rows]
    assert sorted(path.name for path in folder.iterdir()) == [
        "graph-2.usearch", INDEX_FILE, "rows-2.arrow", "vectors.f32",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="no such file, and no recording"):
        carrara.find("10.wav", folder)


def test_a_killed_update_leaves_an_index_that_the_next_completes(tmp_path):
    vectors = clustered(3000, 64)
    library, folder = write_table(tmp_path / "lib.parquet", vectors, rows_in_group=500), tmp_path / "lib.index"
    code = f"""
import os
from pathlib import Path
from carrara.features.embedding_table import EmbeddingTable
from carrara.features.neighbour_index import update_index
commits = []
replace = Path.replace
def count(self, target):
    if Path(target).name.startswith("graph-"):
        commits.append(target)
        if len(commits) == 3:
            os.kill(os.getpid(), 9)
    return replace(self, target)
Path.replace = count
update_index(EmbeddingTable({str(library)!r}), Path({str(folder)!r}), commit_rows=1000)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert json.loads((folder / INDEX_FILE).read_text())["rows"] == 2000
    assert len(carrara.find("row:5", folder)) == 10
    report = update_index(EmbeddingTable(library), folder)
    assert (report.rows, report.added) == (3000, 1000)
    rows, _ = reference(vectors, 2500, 10, False)
    assert carrara.find("row:2500", folder)["row"].to_pylist() == rows


def test_damaged_and_foreign_files_are_refused_in_one_line(tmp_path):
    library, folder = write_table(tmp_path / "lib.parquet", clustered(50)), tmp_path / "lib.index"
    update_index(EmbeddingTable(library), folder)
    (folder / "graph-1.usearch").write_bytes(b"no graph")
    with pytest.raises(StoreError, match="graph-1.usearch: damaged .* `carrara index --rebuild`"):
        carrara.find("row:0", folder)
    result = run("index", library)
    assert result.exit_code == 1 and len(result.stderr.splitlines()) == 1 and "--rebuild" in result.stderr
    assert run("index", library, "--rebuild").exit_code == 0
    assert len(carrara.find("row:0", folder)) == 10
    pq.write_table(pyarrow.table({"a": [1]}), tmp_path / "other.parquet")
    (tmp_path / "text.parquet").write_text("no table")
    for name, reason in [("other", "not a table"), ("text", "not a table"), ("missing", "no such table")]:
        with pytest.raises(StoreError, match=f"{name}.parquet: {reason}"):
            carrara.find("row:0", tmp_path / f"{name}.parquet")
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "song.mp3").touch()
    assert "holds other files, such as song.mp3" in run("index", library, "-o", tmp_path / "music").stderr
    assert "--standardise" in run("index", library, "--standardise").stderr


def test_find_needs_a_query_or_a_path(tmp_path):
    library = write_table(tmp_path / "lib.parquet", clustered(5))
    for arguments in [(), ("row:1", "--path", "row:1", "row:2"), ("--path", "row:1", "row:1")]:
        result = run("find", *arguments, "--in", library)
        assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1


def test_points_on_an_arc_are_at_equal_angles_also_on_a_very_short_one():
    for whole in (np.pi / 2, 3.1, 1e-3, 1e-5):
        last = np.array([np.cos(whole), np.sin(whole)])
        points = points_on_arc(np.array([1.0, 0.0]), last, 4)
        np.testing.assert_allclose(np.arctan2(points[:, 1], points[:, 0]), [whole / 3, whole * 2 / 3], rtol=1e-6)
    for last in ([1.0, 0.0], [-1.0, 0.0]):
        assert points_on_arc(np.array([1.0, 0.0]), np.array(last), 4) is None
    assert len(points_on_arc(np.array([1.0, 0.0]), np.array([0.0, 1.0]), 2)) == 0
