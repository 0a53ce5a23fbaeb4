"""OpenSubsonic's sonicSimilarity over the service: answers as JSON and XML against cosines computed with NumPy."""

from xml.etree import ElementTree

import numpy as np
import pytest
from pyarrow import parquet

from carrara.features.search import open_library
from carrara.web.service.subsonic import read_song_ids

XML = "{http://subsonic.org/restapi}"


@pytest.fixture
def cosines(library):
    vectors_ND = np.stack(parquet.read_table(library)["embedding"].to_numpy())
    unit_ND = vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return unit_ND @ unit_ND.T


def test_similar_tracks_by_the_server_s_ids(start, mert, recordings, library, cosines, tmp_path):
    file = tmp_path / "ids.csv"
    file.write_text("path,id\n" + "".join(f"{path},{100 + index}\n" for index, path in enumerate(recordings)))
    client = start(mert, open_library(library), read_song_ids(file))
    query = {"id": "102", "count": 3, "f": "json", "u": "demo", "p": "demo", "v": "1.13.0", "c": "test"}
    answer = client.get("/rest/getSonicSimilarTracks.view", params=query).json()["subsonic-response"]
    assert (answer["status"], answer["version"], answer["openSubsonic"]) == ("ok", "1.16.1", True)
    order = [row for row in np.argsort(-cosines[2]) if row != 2][:3]
    assert [match["entry"]["id"] for match in answer["sonicMatch"]] == [str(100 + row) for row in order]
    expected = (1 + cosines[2, order]) / 2
    np.testing.assert_allclose([match["similarity"] for match in answer["sonicMatch"]], expected, atol=2e-6)
    assert {"id", "isDir", "title"} <= set(answer["sonicMatch"][0]["entry"])  # what `Child` requires


def test_a_path_starts_and_ends_with_its_songs_and_states_similarity_to_the_start(
    start, mert, recordings, library, cosines
):
    client = start(mert, open_library(library))
    query = {"startSongId": str(recordings[0]), "endSongId": str(recordings[5]), "count": 4}
    text = client.get("/rest/findSonicPath", params=query).content
    matches = ElementTree.fromstring(text).findall(f"{XML}sonicMatch")
    names = [match.find(f"{XML}entry").get("id") for match in matches]
    assert names[0] == str(recordings[0]) and names[-1] == str(recordings[5]) and len(set(names)) == 4
    rows = [list(map(str, recordings)).index(name) for name in names]
    np.testing.assert_allclose(
        [float(match.get("similarity")) for match in matches], (1 + cosines[0, rows]) / 2, atol=2e-6
    )


def test_errors_are_subsonic_s(start, mert, recordings, library):
    client = start(mert, open_library(library))

    def error(call, **query):
        answer = client.get(f"/rest/{call}", params={"f": "json", **query})
        assert answer.status_code == 200
        response = answer.json()["subsonic-response"]
        assert response["status"] == "failed"
        return response["error"]["code"]

    same = str(recordings[0])
    assert error("getSonicSimilarTracks", id="none") == 70
    assert error("getSonicSimilarTracks") == 10
    assert error("findSonicPath", startSongId=same) == 10
    assert error("findSonicPath", startSongId=same, endSongId="none") == 70
    assert error("findSonicPath", startSongId=same, endSongId=same) == 0
    root = ElementTree.fromstring(client.get("/rest/getSonicSimilarTracks", params={"id": "\x01"}).content)
    assert root.get("status") == "failed" and root.find(f"{XML}error").get("code") == "70"


def test_extensions_are_listed(start, mert, library):
    client = start(mert, open_library(library))
    answer = client.get("/rest/getOpenSubsonicExtensions", params={"f": "json"}).json()["subsonic-response"]
    assert answer["openSubsonicExtensions"] == [{"name": "sonicSimilarity", "versions": [1]}]
    assert client.get("/rest/ping.view", params={"f": "json"}).json()["subsonic-response"]["status"] == "ok"


def test_songs_without_an_id_are_left_out(start, mert, recordings, library):
    client = start(mert, open_library(library), {str(recordings[0]): "a", str(recordings[1]): "b"})
    answer = client.get("/rest/getSonicSimilarTracks", params={"id": "a", "count": 5, "f": "json"})
    assert [match["entry"]["id"] for match in answer.json()["subsonic-response"]["sonicMatch"]] == ["b"]
