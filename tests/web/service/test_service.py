"""The embedding service over a real socket: results of `carrara.embed`, batches, limits, broken uploads, metrics."""

import io
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
import torch
from prometheus_client.parser import text_string_to_metric_families

import carrara
from carrara.encoders._hub.any_encoder import resolve_encoder
from carrara.features.search import find, open_library

RATE = 16000


def vectors(answer):
    assert answer.status_code == 200, answer.text
    return np.array([row["embedding"] for row in answer.json()["embeddings"]])


def sample(client, name, **labels):
    """Return the value of a metric as a Prometheus server reads it."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    values = [each.value for family in families for each in family.samples
              if each.name == name and all(each.labels.get(key) == value for key, value in labels.items())]  # fmt: skip
    return sum(values)


class SlowEncoder(torch.nn.Module):
    """Returns the mean and the largest sample of each clip, once it may."""

    def __init__(self):
        super().__init__()
        self.may_run, self.has_begun = threading.Event(), threading.Event()

    def forward(self, samples_BT):
        self.has_begun.set()
        assert self.may_run.wait(60)
        return torch.stack([samples_BT.mean(1), samples_BT.amax(1)], dim=1)


@pytest.fixture
def slow():
    module = SlowEncoder()
    module.may_run.set()
    encoder = resolve_encoder(module, sample_rate=RATE)  # tries the module
    module.may_run.clear()
    module.has_begun.clear()
    yield encoder, module
    module.may_run.set()


def wait_until(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.01)


@pytest.mark.parametrize("layer", ["mean", "0", "2", "last", "cnn"])
def test_embeddings_are_those_of_embed(start, post, mert, recordings, layer):
    client = start(mert)
    expected = carrara.embed(recordings[:2], mert, layer=layer)
    for row, path in enumerate(recordings[:2]):
        answer = post(client, path, "/embed", layer=layer)
        np.testing.assert_allclose(vectors(answer)[0], expected["embedding"][row].as_py(), rtol=0, atol=1e-6)
        assert answer.json()["embeddings"][0]["duration"] == expected["duration"][row].as_py()


def test_all_layers_and_windows(start, post, mert, recordings):
    client = start(mert)
    rows = post(client, recordings[0], "/embed", layer="all").json()["embeddings"]
    assert [row["layer"] for row in rows] == [str(layer) for layer in range(mert.card.num_layers + 1)]
    window = post(client, recordings[0], "/embed", per="window")
    assert vectors(window).shape == (1, mert.card.dim)


def test_requests_that_meet_are_one_batch_with_the_results_of_each_alone(start, post, mert, recordings):
    client = start(mert, batch_wait=2.0, max_batch=len(recordings))
    expected = [carrara.embed(path, mert)["embedding"][0].as_py() for path in recordings]
    with ThreadPoolExecutor(len(recordings)) as pool:
        answers = list(pool.map(lambda path: post(client, path, "/embed"), recordings))
    for answer, alone in zip(answers, expected):
        np.testing.assert_allclose(vectors(answer)[0], alone, rtol=0, atol=1e-5)
    assert sample(client, "carrara_batch_recordings_count") == 1
    assert sample(client, "carrara_batch_recordings_sum") == len(recordings)


def test_a_broken_recording_in_a_batch_leaves_the_others(start, post, mert, recordings, tmp_path):
    cut = tmp_path / "cut.flac"
    data_T, rate = soundfile.read(recordings[5])
    soundfile.write(cut, data_T, rate)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    client = start(mert, batch_wait=1.0, max_batch=3)
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda path: post(client, path, "/embed"), [recordings[0], cut, recordings[1]]))
    assert [answer.status_code for answer in answers] == [200, 422, 200]
    assert answers[1].json()["error"].startswith("cut.flac: ")


def test_a_full_queue_is_503_with_retry_after_and_then_takes_more(start, post, slow, recordings):
    encoder, module = slow
    client = start(encoder, max_waiting=1, max_batch=1)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(post, client, recordings[0], "/embed")
        assert module.has_begun.wait(120)
        second = pool.submit(post, client, recordings[1], "/embed")
        wait_until(lambda: client.service.queue.is_full)
        refused = post(client, recordings[2], "/embed")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "try again" in refused.json()["error"]
        module.may_run.set()
        assert [first.result().status_code, second.result().status_code] == [200, 200]
    assert post(client, recordings[2], "/embed").status_code == 200


def test_a_request_that_waits_too_long_is_504_and_is_not_encoded_later(start, post, slow, recordings):
    encoder, module = slow
    client = start(encoder, timeout=2, max_batch=1)
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda path: post(client, path, "/embed"), recordings[:2]))
    assert [answer.status_code for answer in answers] == [504, 504]
    module.may_run.set()
    wait_until(lambda: len(client.service.queue) == 0)
    assert post(client, recordings[2], "/embed").status_code == 200
    assert sample(client, "carrara_batch_recordings_count") == 2  # the second had given up before its turn


def test_an_encoder_that_fails_is_500_and_the_next_request_is_answered(start, post, slow, recordings):
    encoder, module = slow
    module.may_run.set()
    client = start(encoder)
    whole = type(module).forward
    module.forward = lambda samples_BT: 1 / 0
    failed = post(client, recordings[0], "/embed")
    assert (failed.status_code, failed.json()) == (500, {"error": "ZeroDivisionError: division by zero"})
    module.forward = whole.__get__(module)
    assert post(client, recordings[0], "/embed").status_code == 200


def test_limits_of_size_and_length(start, post, mert, recordings):
    client = start(mert, max_bytes=100_000, max_seconds=1.2)
    assert post(client, recordings[0], "/embed").status_code == 200
    assert post(client, recordings[5], "/embed").status_code == 413
    noise_T = 0.1 * np.random.default_rng(0).standard_normal(2 * RATE)
    for format in ("OGG", "MP3", "FLAC"):  # Ogg states no length
        file = io.BytesIO()
        soundfile.write(file, noise_T, RATE, format=format)
        answer = client.post("/embed", files={"file": (f"long.{format.lower()}", file.getvalue())})
        assert (answer.status_code, answer.json()["error"][:15]) == (422, f"long.{format.lower()}: longer"[:15])

    def parts():  # without a Content-Length
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        for _ in range(20):
            yield bytes(10_000)

    answer = client.post("/embed", content=parts(), headers={"content-type": "multipart/form-data; boundary=b"})
    assert (answer.status_code, "larger than" in answer.json()["error"]) == (413, True)


def test_bad_audio_and_bad_requests_are_one_line(start, post, mert, recordings, tmp_path):
    client = start(mert)
    for name, content in (("text.mp3", b"no audio at all"), ("empty.wav", b""), ("a\nb.wav", b"RIFF")):
        answer = client.post("/embed", files={"file": (name, content)})
        assert answer.status_code == 422
        assert "\n" not in answer.json()["error"] and "/tmp" not in answer.json()["error"]
    assert post(client, recordings[0], "/embed", layer="77").json()["error"].startswith("--layer 77: mert-tiny:random")
    assert post(client, recordings[0], "/embed", per="song").json()["error"].startswith("per: ")
    assert client.post("/embed").json() == {"error": "file: Field required"}
    assert (client.get("/nothing").status_code, client.get("/nothing").json()) == (404, {"error": "Not Found"})
    assert post(client, recordings[0], "/tag").status_code == 404
    assert "--index" in post(client, recordings[0], "/find").json()["error"]
    assert client.get("/rest/ping").status_code == 404


def test_an_upload_that_is_cut_off_harms_nothing(start, post, mert, recordings):
    client = start(mert, timeout=2)
    head = (
        b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF'
    )
    address = (client.base_url.host, client.base_url.port)
    with socket.create_connection(address) as connection:
        connection.sendall(head)
    with socket.create_connection(address) as connection:  # stays open, but sends nothing more
        connection.sendall(head)
        connection.settimeout(120)
        assert b"408" in connection.recv(4096).split(b"\r\n")[0]
    wait_until(lambda: sample(client, "carrara_requests_total", path="/embed") == 2)
    assert post(client, recordings[0], "/embed").status_code == 200


def test_find_lists_what_the_command_finds(start, post, mert, recordings, library):
    client = start(mert, open_library(library))
    expected = find(str(recordings[2]), library, count=3).to_pylist()
    upload = recordings[2]
    results = post(client, upload, "/find", count=4).json()["results"]
    assert results[0]["path"] == str(upload) and results[0]["similarity"] == pytest.approx(1, abs=1e-6)
    assert [item["path"] for item in results[1:]] == [item["path"] for item in expected]
    np.testing.assert_allclose(
        [item["similarity"] for item in results[1:]], [item["similarity"] for item in expected], atol=1e-6
    )


def test_tags_are_those_of_the_tagger(start, post, recordings):
    musicnn = carrara.load("musicnn-mtt:random")
    client = start(musicnn)
    answer = post(client, recordings[4], "/tag", top=3).json()
    assert len(answer["tags"]) == 3 and {tag["tag"] for tag in answer["tags"]} <= set(musicnn.tag_names)
    samples_T, _ = soundfile.read(recordings[4], dtype="float32")
    probability_K = musicnn.predict_tags(torch.from_numpy(samples_T)[None])[0].detach().numpy()
    best = np.argsort(-probability_K)[:3]
    assert [tag["tag"] for tag in answer["tags"]] == [musicnn.tag_names[index] for index in best]
    assert answer["tags"][0]["probability"] == pytest.approx(probability_K[best[0]], abs=1e-4)


def test_health_metrics_and_openapi(start, post, mert, recordings):
    client = start(mert)
    assert client.get("/health").json()["status"] == "ok"
    post(client, recordings[0], "/embed")
    client.get("/some/stranger")
    assert sample(client, "carrara_requests_total", path="/embed", status="200") == 1
    assert sample(client, "carrara_requests_total", path="other", status="404") == 1
    assert sample(client, "carrara_audio_seconds_total") == pytest.approx(1.0)
    schema = client.get("/openapi.json").json()
    assert {"/embed", "/tag", "/find", "/health", "/metrics"} <= set(schema["paths"])
    assert "503" in schema["paths"]["/embed"]["post"]["responses"]


def test_warnings_of_a_recording_are_in_its_answer_only(start, post, mert, recordings, library, tmp_path, recwarn):
    sound_T = np.random.default_rng(0).uniform(-0.3, 0.3, 8 * RATE)
    antiphase, gap = tmp_path / "antiphase.wav", tmp_path / "gap.ogg"
    soundfile.write(antiphase, np.stack([sound_T, -sound_T], axis=1), RATE)
    with soundfile.SoundFile(gap, "w", RATE, 1) as file:
        for part_T in np.array_split(sound_T, 64):  # libsndfile crashes when a long array goes into Ogg in one call
            file.write(part_T)
    data = bytearray(gap.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = np.random.default_rng(3).bytes(3000)
    gap.write_bytes(data)
    client = start(mert, open_library(library), batch_wait=1.0, max_batch=3)
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda path: post(client, path, "/embed"), [antiphase, recordings[0], gap]))
    warnings = [answer.json()["warnings"] for answer in answers]
    assert [len(texts) for texts in warnings] == [1, 0, 1]
    assert warnings[0][0].startswith("antiphase.wav: its channels cancel each other")
    assert warnings[2][0].startswith("gap.ogg: damaged: ") and "of 8.00 s decode" in warnings[2][0]
    assert post(client, antiphase, "/find").json()["warnings"] == warnings[0]
    assert not [each for each in recwarn if "antiphase" in str(each.message)]
