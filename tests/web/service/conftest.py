"""Recordings, a library of them, and services that answer on a real socket of this machine."""

import threading

import httpx
import numpy as np
import pytest
import soundfile
import uvicorn

import carrara
from carrara.web.listen import bind_socket, format_url
from carrara.web.service.app import EncodingService, ServiceLimits, create_service

RATE = 16000


@pytest.fixture(scope="session")
def recordings(tmp_path_factory):
    """Six files of 1 to 3 seconds, each a chord with some noise."""
    folder = tmp_path_factory.mktemp("recordings")
    paths = []
    for index in range(6):
        time_T = np.arange(RATE * (2 + index) // 2) / RATE
        tones = sum(np.sin(2 * np.pi * 220 * 2 ** ((index + step) / 12) * time_T) for step in (0, 4, 7))
        noise_T = np.random.default_rng(index).standard_normal(len(time_T))
        paths.append(folder / f"{index}.wav")
        soundfile.write(paths[-1], (0.2 * tones + 0.02 * noise_T).astype(np.float32), RATE, subtype="FLOAT")
    return paths


@pytest.fixture(scope="session")
def mert():
    return carrara.load("mert-tiny:random")


@pytest.fixture(scope="session")
def library(recordings, mert, tmp_path_factory):
    """A table of the recordings by mert-tiny:random."""
    from pyarrow import parquet

    path = tmp_path_factory.mktemp("library") / "lib.parquet"
    parquet.write_table(carrara.embed(recordings, mert), path)
    return path


@pytest.fixture
def start():
    """Start a service and return a client of it; both end with the test."""
    running = []

    def run(encoder, library=None, song_ids=None, **limits):
        service = EncodingService(encoder, library, ServiceLimits(**limits))
        listener = bind_socket("127.0.0.1", 0)
        server = uvicorn.Server(uvicorn.Config(create_service(service, song_ids), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        client = httpx.Client(base_url=format_url(listener), timeout=300, trust_env=False)
        client.service = service
        running.append((server, thread, client))
        return client

    yield run
    for server, thread, client in running:
        client.close()
        server.should_exit = True
        thread.join()


@pytest.fixture
def post():
    """Post a recording."""

    def send(client, path, address, **query):
        with open(path, "rb") as file:
            return client.post(address, params=query, files={"file": (path.name, file)})

    return send
