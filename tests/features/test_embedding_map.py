"""Maps: axes, purity and silhouette against NumPy, tables and stores as sources, files that are written."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from carrara.cli._main import app
from carrara.core.clip import Clip
from carrara.core.errors import StoreError, UsageError
from carrara.core.hashing import sha256_of_file
from carrara.features.draw_map import draw_map
from carrara.features.embedding_map import MapPoints, find_neighbours, measure_separation, project_points, read_points
from carrara.features.store import FeatureStore

GENRES = ("a", "b", "c")


def blobs(spread=0.1, count=12, dim=6, seed=0):
    """Return points around three orthogonal directions, and their labels."""
    rng = np.random.default_rng(seed)
    labels = [GENRES[row % 3] for row in range(count)]
    centres = np.eye(dim)[[row % 3 for row in range(count)]]
    return (centres + spread * rng.normal(size=(count, dim))).astype(np.float32), labels


def write_table(path, layers, rows_each=2):
    """Write a table as `carrara embed --per window` does, with the given mean of each recording's rows."""
    rows = []
    for number in range(len(next(iter(layers.values())))):
        for window in range(rows_each):
            for layer, vectors in layers.items():
                shift = (-1) ** window if rows_each == 2 else 0
                embedding = (vectors[number] + shift).astype(np.float32)
                name = str(path.parent / f"{number}.wav")
                rows.append({"path": name, "start": 1.0 * window, "duration": 1.0, "layer": layer,
                             "embedding": embedding.tolist()})  # fmt: skip
    settings = {"encoder": "x", "weights_sha256": "00", "encoder_settings": {}}
    schema = pa.schema(
        {"path": pa.string(), "start": pa.float64(), "duration": pa.float64(), "layer": pa.string(),
         "embedding": pa.list_(pa.float32(), len(rows[0]["embedding"]))},
        metadata={"settings": json.dumps(settings), "files": "[]"},
    )  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return path


def carrara(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_pca_is_the_first_two_singular_vectors_of_the_training_points():
    vectors, _ = blobs(spread=0.5)
    fitted = np.arange(12) < 8
    placed = project_points(vectors, fitted)
    mean = vectors[fitted].astype(np.float64).mean(0)
    _, _, axes = np.linalg.svd(vectors[fitted].astype(np.float64) - mean)
    expected = (vectors - mean) @ axes[:2].T
    signs = np.sign(np.sum(expected * placed, axis=0))
    assert placed == pytest.approx(expected * signs, abs=1e-5)


def test_purity_and_silhouette_are_those_of_their_definitions():
    vectors, labels = blobs(spread=0.6)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    distance = 1 - unit.astype(np.float64) @ unit.T.astype(np.float64)
    names = np.array(labels)
    same = names[:, None] == names
    hits, silhouettes = [], []
    for row in range(12):
        others = np.delete(np.arange(12), row)
        nearest = others[np.argsort(distance[row, others])[:3]]
        hits.append(np.mean(names[nearest] == names[row]))
        inside = np.mean(distance[row, others[same[row, others]]])
        outside = min(np.mean(distance[row, names == name]) for name in GENRES if name != names[row])
        silhouettes.append((outside - inside) / max(outside, inside))
    measured = measure_separation(vectors, labels, neighbours=3)
    assert measured.purity == pytest.approx(np.mean(hits))
    assert measured.silhouette == pytest.approx(np.mean(silhouettes), abs=1e-5)
    # Of 12 points with 4 of each label, 3 of the other 11 have a point's own.
    assert measured.chance == pytest.approx(3 / 11) and measured.points == 12


def test_points_without_a_label_are_left_out_and_one_label_is_refused():
    vectors, labels = blobs()
    some = [*labels[:9], None, None, None]
    assert measure_separation(vectors, some, 2) == measure_separation(vectors[:9], labels[:9], 2)
    with pytest.raises(UsageError, match="nothing to separate"):
        measure_separation(vectors, ["a"] * 12)
    with pytest.raises(UsageError, match="nothing to separate"):
        measure_separation(vectors, list(range(12)))


def test_a_point_of_a_table_is_the_mean_of_its_rows(tmp_path):
    vectors, labels = blobs()
    table = write_table(tmp_path / "t.parquet", {"0": vectors, "10": vectors * 2, "2": vectors})
    clips = [Clip(str(n), tmp_path / f"{n}.wav", labels={"genre": name}) for n, name in enumerate(labels)]
    points = read_points(table, [clip.with_split("train" if n < 6 else "test") for n, clip in enumerate(clips[:9])])
    assert list(points.layers) == ["0", "2", "10"]
    assert points.layers["10"] == pytest.approx(2 * vectors, abs=1e-6)
    assert points.labels["genre"] == [*labels[:9], None, None, None]
    assert points.fitted.tolist() == [True] * 6 + [False] * 6
    some = points.labelled("genre")
    assert len(some.names) == 9 and some.layers["2"] == pytest.approx(vectors[:9], abs=1e-6)
    assert some.fitted.sum() == 6 and some.labels["genre"] == labels[:9]
    assert read_points(table, layers=["2"]).fitted.all()
    with pytest.raises(UsageError, match=r"--layer 3: .*has the layers 0, 2, 10"):
        read_points(table, layers=["3"])
    with pytest.raises(UsageError, match="none of its 12 recordings"):
        read_points(table, [Clip("x", tmp_path / "other.wav")])


def test_a_feature_store_is_matched_by_audio(tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    vectors, labels = blobs()
    store = FeatureStore(tmp_path / "store", {"0": 6, "1": 6}, {"format": 3})
    clips = []
    with store.writer() as writer:
        for number, label in enumerate(labels):
            audio = tmp_path / f"{number}.wav"
            audio.write_bytes(bytes([number]) * 100)
            rows = np.stack([vectors[number] + 1, vectors[number] - 1])
            writer.append({"0": rows, "1": 3 * rows})
            writer.commit(f"{sha256_of_file(audio)}:0.0:None")
            clips.append(Clip(str(number), audio, labels={"genre": label}))
    points = read_points(tmp_path / "store", clips[:10])
    assert points.layers["1"] == pytest.approx(3 * vectors, abs=2e-2)  # half precision
    assert points.labels["genre"] == [*labels[:10], None, None]
    assert points.names[0] == str(clips[0].path) and points.names[11].endswith(":0.0:None")
    (tmp_path / "store" / "meta.json").write_text("{}")
    with pytest.raises(StoreError, match=r"meta\.json"):
        read_points(tmp_path / "store")


def test_the_command_writes_pictures_a_table_and_numbers(tmp_path):
    vectors, labels = blobs(count=30)
    noise = np.random.default_rng(1).normal(size=vectors.shape)
    table = write_table(tmp_path / "music.parquet", {"0": noise, "1": vectors}, rows_each=1)
    lines = [f"{tmp_path / f'{n}.wav'},{name},{'train' if n < 20 else 'test'}" for n, name in enumerate(labels)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,genre,split", *lines]))
    options = ["--labels", tmp_path / "labels.csv", "--color", "genre"]
    pictures = ["-o", tmp_path / "map.png", "-o", tmp_path / "map.svg"]
    done = carrara("map", table, *options, *pictures, "--neighbors", 5, "--json")
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout)
    assert values["points"] == 30 and values["fitted"] == 20
    assert values["layers"]["1"]["purity"] > 0.9 > values["layers"]["0"]["purity"]
    assert (tmp_path / "map.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    svg = (tmp_path / "map.svg").read_text()
    assert "layer 0" in svg and "layer 1" in svg and all(f">{name}<" in svg for name in GENRES)

    done = carrara("map", table, *options, "-o", tmp_path / "map.parquet")
    assert done.exit_code == 2 and "--layer: 0, 1" in done.stderr
    done = carrara("map", table, *options, "--layer", "1", "-o", tmp_path / "map.parquet")
    assert done.exit_code == 0, done.output
    written = pq.read_table(tmp_path / "map.parquet")
    assert written.column_names == ["path", "split", "genre", "projection_x", "projection_y", "neighbors"]
    index, distance = find_neighbours(vectors)
    first = written["neighbors"][0].as_py()
    assert first["ids"] == index[0].tolist() and 0 not in first["ids"]
    assert first["distances"] == pytest.approx(distance[0].tolist(), abs=1e-5)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["none.parquet"], "no such table or feature store"),
        (["t.parquet", "-o", "map.gif"], ".gif is not written here"),
        (["t.parquet", "-o", "-"], "standard output is not written here; give .png"),
        (["t.parquet", "--color", "genre"], "--labels FILE or --data DATASET"),
        (["t.parquet", "--color", "gnre", "--labels", "labels.csv"], "Did you mean 'genre'?"),
        (["t.parquet", "--color", "genre", "--labels", "labels.csv"], "2 recordings have the label 'genre'"),
        (["t.parquet", "--labels", "bad.csv"], "has no column 'path'"),
        (["labels.csv"], "not a table that `carrara embed` wrote"),
    ],
)
def test_misuse_is_one_line(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "t.parquet", {"0": blobs()[0]})
    (tmp_path / "labels.csv").write_text(f"path,genre\n{tmp_path / '0.wav'},a\n{tmp_path / '1.wav'},b\n")
    (tmp_path / "bad.csv").write_text("file,genre\nx,a\n")
    done = carrara("map", *arguments)
    assert done.exit_code in (1, 2) and words in done.stderr.strip().splitlines()[-1]


def test_numbers_many_classes_and_hostile_names_are_drawn(tmp_path):
    placed = {"0": np.random.default_rng(0).normal(size=(40, 2))}
    draw_map(tmp_path / "numbers.png", placed, [n / 7 for n in range(40)])
    draw_map(tmp_path / "many.svg", placed, [f"class {n % 20}" for n in range(40)], "$x_ \u202e")
    svg = (tmp_path / "many.svg").read_text()
    assert "others" in svg and "\u202e" not in svg and "$x_" in svg


@pytest.mark.slow
def test_umap_keeps_the_groups_apart_and_places_test_points(monkeypatch):
    # For so few points compiling takes several times as long as computing.
    monkeypatch.setattr(pytest.importorskip("numba").config, "DISABLE_JIT", 1)
    pytest.importorskip("umap")
    vectors, labels = blobs(count=60)
    points = MapPoints(
        [str(n) for n in range(60)], {"0": vectors}, {}, ["train" if n < 45 else "test" for n in range(60)]
    )
    placed = project_points(vectors, points.fitted, "umap")
    assert placed.shape == (60, 2) and np.isfinite(placed).all()
    centres = {name: placed[:45][np.array(labels[:45]) == name].mean(0) for name in GENRES}
    nearest = [min(GENRES, key=lambda name: np.linalg.norm(point - centres[name])) for point in placed[45:]]
    assert np.mean(np.array(nearest) == np.array(labels[45:])) > 0.9
