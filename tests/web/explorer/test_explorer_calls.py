"""The explorer's calls without a browser, against NumPy and scikit-learn, and which files it serves."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sklearn.decomposition import PCA
from starlette.testclient import TestClient

from carrara.audio.decode import load_audio
from carrara.data.folder import DATASET
from carrara.features.embedding_map import MapPoints
from carrara.web.explorer.app import QueryEncoder, create_explorer
from carrara.web.explorer.collection import Collection

COUNT = 30


@pytest.fixture
def points(tmp_path):
    """Recordings in two groups, the last without a file, with two layers, a class and a number."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "music"
    folder.mkdir()
    names = []
    for row in range(COUNT):
        names.append(str(folder / f"{row}.wav"))
        if row < COUNT - 1:
            soundfile.write(names[-1], 0.1 * rng.standard_normal(800), 8000)
    group_N = np.arange(COUNT) % 2
    layers = {name: (rng.standard_normal((COUNT, 6)) + 4 * group_N[:, None]).astype(np.float32) for name in ("0", "1")}
    labels = {"group": ["a" if group == 0 else "b" for group in group_N], "year": [str(1990 + n) for n in range(COUNT)]}
    labels["group"][3] = None
    return MapPoints(names, layers, labels, [None] * COUNT)


@pytest.fixture
def client(points):
    queries = QueryEncoder(lambda path, layer: points.layers[layer][7])
    return TestClient(create_explorer(Collection(points), "test", queries, ["testserver"]))


def test_positions_are_the_principal_components_scaled_alike(client, points):
    placed_N2 = np.frombuffer(client.get("/api/points", params={"layer": "1"}).content, np.float32).reshape(-1, 2)
    expected_N2 = PCA(2, svd_solver="full").fit_transform(points.layers["1"].astype(np.float64))
    for axis in range(2):
        assert abs(np.corrcoef(placed_N2[:, axis], expected_N2[:, axis])[0, 1]) == pytest.approx(1, abs=1e-5)
    assert np.abs(placed_N2).max() == pytest.approx(0.95, abs=1e-4)
    spread = np.ptp(placed_N2, axis=0) / np.ptp(expected_N2, axis=0)
    assert spread[0] == pytest.approx(spread[1], rel=1e-4)


def test_labels_are_codes_or_numbers(client):
    facts = {each["name"]: each for each in client.get("/api/info").json()["labels"]}
    assert facts["group"]["values"] == ["a", "b"] and facts["group"]["counts"] == [15, 14]
    assert facts["year"]["numeric"] and facts["year"]["range"] == [1990, 2019]
    codes_N = np.frombuffer(client.get("/api/label", params={"name": "group"}).content, np.float32)
    assert np.isnan(codes_N[3]) and codes_N[0] == 0 and codes_N[1] == 1


def cosines(points, layer, query_D):
    unit_ND = points.layers[layer] / np.linalg.norm(points.layers[layer], axis=1, keepdims=True)
    return unit_ND @ (query_D / np.linalg.norm(query_D))


def test_neighbours_and_search_are_by_cosine(client, points):
    cosine_N = cosines(points, "0", points.layers["0"][7])
    order = [int(row) for row in np.argsort(-cosine_N)]
    near = client.get("/api/neighbours", params={"row": 7, "layer": "0", "count": 5}).json()
    assert [item["row"] for item in near] == order[1:6]
    dropped = client.post("/api/search", params={"layer": "0", "count": 3}, files={"file": ("x.wav", b"RIFF")})
    assert [item["row"] for item in dropped.json()["recordings"]] == order[:3]


def test_warnings_and_errors_of_a_dropped_file_do_not_name_its_copy(points, tmp_path):
    sound_T = np.random.default_rng(0).uniform(-0.3, 0.3, 8000)
    soundfile.write(tmp_path / "antiphase.wav", np.stack([sound_T, -sound_T], axis=1), 8000)
    queries = QueryEncoder(lambda path, layer: load_audio(path, 8000)[:6] + 1)
    client = TestClient(create_explorer(Collection(points), "test", queries, ["testserver"]))

    def drop(content):
        return client.post("/api/search", params={"layer": "0"}, files={"file": ("x.wav", content)}).json()

    [text] = drop((tmp_path / "antiphase.wav").read_bytes())["warnings"]
    assert text.startswith("its channels cancel each other")
    assert drop(b"RIFF")["error"].startswith("not an audio file")


def test_a_path_has_its_ends_and_each_recording_once(client):
    rows = [item["row"] for item in client.get("/api/path", params={"first": 2, "last": 9, "layer": "0"}).json()]
    assert rows[0] == 2 and rows[-1] == 9 and len(rows) == len(set(rows)) == 8
    same = client.get("/api/path", params={"first": 2, "last": 2, "layer": "0"})
    assert same.status_code == 422 and "same" in same.json()["error"]


def test_a_probe_separates_what_is_separable_and_lists_only_the_unlabelled(client, points):
    labels = {row: "even" if row % 2 == 0 else "odd" for row in range(10)}
    result = client.post("/api/probe", json={"layer": "0", "labels": labels}).json()
    assert result["classes"] == ["even", "odd"] and result["accuracy"] == 1.0
    listed = result["certain"] + result["uncertain"]
    assert all(item["row"] >= 10 and item["label"] == ("even" if item["row"] % 2 == 0 else "odd") for item in listed)
    assert min(item["probability"] for item in result["certain"]) >= max(
        item["probability"] for item in result["uncertain"]
    )
    one = client.post("/api/probe", json={"layer": "0", "labels": {0: "a", 1: "a"}})
    assert one.status_code == 422 and "two labels" in one.json()["error"]


def test_saved_labels_are_a_csv_that_own_datasets_read(client, points, tmp_path):
    labels = {0: 'a "quoted", name', 5: "b"}
    text = client.post("/api/labels.csv", json={"layer": "0", "labels": labels}).text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert rows == [{"path": points.names[0], "label": labels[0]}, {"path": points.names[5], "label": "b"}]
    folder = tmp_path / "labelled"
    folder.mkdir()
    (folder / "labels.csv").write_text(text)
    clips = DATASET.index(folder)
    assert {str(clip.path): clip.labels["label"] for clip in clips} == {
        points.names[row]: labels[row] for row in labels
    }


def test_audio_is_served_in_ranges_and_only_of_recordings(client, points, tmp_path):
    whole = client.get("/audio/0")
    assert whole.status_code == 200 and whole.content == Path(points.names[0]).read_bytes()
    part = client.get("/audio/0", headers={"range": "bytes=10-19"})
    assert part.status_code == 206 and part.content == whole.content[10:20]
    moved = client.get(f"/audio/{COUNT - 1}")
    assert moved.status_code == 404 and "--audio" in moved.json()["error"]
    assert client.get("/api/recording/29").json()["audio"] is False
    for address in ("/audio/30", "/audio/-1", "/audio/../pyproject.toml", "/static/../app.py", "/static/%2e%2e/app.py"):
        assert client.get(address).status_code in (404, 422)


def test_files_outside_the_folders_of_the_start_are_not_served(points, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    moved = tmp_path / "new" / "music"
    moved.mkdir(parents=True)
    (tmp_path / "secret.wav").write_bytes(b"secret")
    (moved / "1.wav").symlink_to(tmp_path / "secret.wav")  # a link that leads out of the folder
    (moved / "0.wav").write_bytes(b"moved")
    assert Collection(points, [other]).audio_file(0) is None
    collection = Collection(points, [tmp_path / "new"])
    assert collection.audio_file(0) == (moved / "0.wav").resolve()
    assert collection.audio_file(1) is None
    names = ["/etc/passwd", *points.names[1:]]
    assert Collection(MapPoints(names, points.layers)).audio_file(0) is None


def test_other_sites_and_host_names_are_refused(client):
    labels = {"layer": "0", "labels": {0: "a"}}
    assert client.post("/api/labels.csv", json=labels, headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert client.get("/api/info", headers={"host": "evil.example"}).status_code == 400
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy and "http" not in policy
