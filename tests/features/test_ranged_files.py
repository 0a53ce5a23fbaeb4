"""Samples of remote files: the bytes that a server sends are counted, the rows are those of local files."""

import hashlib
import http.server
import json
import re
import threading

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from typer.testing import CliRunner

import carrara
from carrara.cli._main import app
from carrara.core import download, ranged

RATE = 32_000
MOST = {"flac": 0.35, "wav": 0.35, "m4a": 0.5}  # of a file


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(ranged, "BLOCK_BYTES", 2**14)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    """Return a folder of one recording of 40 s in each format."""
    import av

    folder = tmp_path_factory.mktemp("music")
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, 40 * RATE).astype(np.float32)
    for kind in ("flac", "wav"):
        soundfile.write(folder / f"a.{kind}", noise, RATE)
    with av.open(str(folder / "a.m4a"), "w") as container:
        stream = container.add_stream("aac", rate=RATE, layout="mono", bit_rate=128_000)
        frame = av.AudioFrame.from_ndarray(noise[None], "fltp", "mono")
        frame.sample_rate = RATE
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return folder


class Web(http.server.BaseHTTPRequestHandler):
    """Sends parts of files if `ranged`, counts the bytes of bodies, and exchanges a file after `exchange` requests."""

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        server, body = self.server, (self.server.folder / self.path.lstrip("/")).read_bytes()
        if server.changes_after is not None and server.requests >= server.changes_after:
            body = bytes(len(body))
        tag = f'"{hashlib.md5(body).hexdigest()}"'
        given = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if server.ranged else None
        is_part = given and self.headers.get("If-Range", tag) == tag
        whole = len(body)
        if is_part:
            begin, end = int(given[1]), min(int(given[2]) + 1, whole)
            body = body[begin:end]
        self.send_response(206 if is_part else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", tag)
        if is_part:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{whole}")
        self.end_headers()
        if self.command == "GET":
            server.requests += 1
            server.sent += len(body)
            self.wfile.write(body)


@pytest.fixture
def web(music):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Web)
    server.folder, server.ranged, server.sent, server.requests, server.changes_after = music, True, 0, 0, None
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def embed(*arguments, expected=0):
    result = CliRunner().invoke(
        app, ["embed", *map(str, arguments), "-e", "mfcc", "--sample", "2x2", "--threads", "1", "--json"]
    )
    assert result.exit_code == expected, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("kind", MOST)
def test_a_sample_moves_what_its_excerpts_need(web, music, kind):
    local = carrara.embed([music / f"a.{kind}"], "mfcc", "window", sample="2x2")
    remote = carrara.embed([f"{web.url}/a.{kind}"], "mfcc", "window", sample="2x2")
    assert remote.drop_columns("path").equals(local.drop_columns("path")) and len(remote) == 2
    assert 0 < web.sent < MOST[kind] * (music / f"a.{kind}").stat().st_size


def test_a_second_run_moves_nothing_and_a_changed_file_is_read_again(web, music, tmp_path):
    web.folder = tmp_path / "served"
    web.folder.mkdir()
    (web.folder / "a.flac").write_bytes((music / "a.flac").read_bytes())
    assert embed(f"{web.url}/a.flac", "-o", "out.parquet")["embedded"] == 1
    assert pq.read_table("out.parquet")["path"].to_pylist() == [f"{web.url}/a.flac"]
    web.sent = 0
    assert embed(f"{web.url}/a.flac", "-o", "out.parquet")["reused"] == 1 and not web.sent
    # Without the cache of hashes too, as on another machine.
    for file in (tmp_path / "home").rglob("*.sqlite*"):
        file.unlink()
    assert embed(f"{web.url}/a.flac", "-o", "out.parquet")["reused"] == 1 and not web.sent
    soundfile.write(web.folder / "a.flac", np.random.default_rng(1).uniform(-0.3, 0.3, 40 * RATE), RATE)
    assert embed(f"{web.url}/a.flac", "-o", "out.parquet")["embedded"] == 1


def test_a_host_without_parts_is_named_once_and_its_files_are_moved_whole(web, music):
    web.ranged = False
    paths = [f"{web.url}/a.{kind}" for kind in ("flac", "wav")]
    with pytest.warns(UserWarning, match="sends no parts of files, so they are moved whole") as warned:
        remote = carrara.embed(paths, "mfcc", sample="2x2")
    assert len([each for each in warned if "parts of files" in str(each.message)]) == 1
    local = carrara.embed([music / "a.flac", music / "a.wav"], "mfcc", sample="2x2")
    assert remote["embedding"].equals(local["embedding"])


def test_a_file_exchanged_while_it_is_read_fails_alone(web):
    web.changes_after = 3
    report = embed(f"{web.url}/a.wav", f"{web.url}/a.flac", "-o", "out", expected=1)
    assert report["embedded"] == 0 and "was changed while it was read" in report["failed"][f"{web.url}/a.wav"]


def test_a_lost_host_is_one_line(web, monkeypatch):
    monkeypatch.setattr(download, "PAUSES_SECONDS", ())
    web.shutdown()
    web.server_close()
    report = embed(f"{web.url}/a.wav", "-o", "out", expected=1)
    assert "cannot be read" in report["failed"][f"{web.url}/a.wav"]


def test_objects_of_other_stores_are_read_in_parts(music):
    moved = []

    class Counting(type(fsspec.filesystem("memory"))):
        def cat_file(self, path, start=None, end=None, **options):
            content = super().cat_file(path, start=start, end=end, **options)
            moved.append(len(content))
            return content

        def get_file(self, *arguments, **options):
            raise AssertionError("moved whole")

    plain = type(fsspec.filesystem("memory"))
    fsspec.register_implementation("memory", Counting, clobber=True)
    try:
        fsspec.filesystem("memory").put(str(music), "/ranges", recursive=True)
        remote = carrara.embed(["memory://ranges/a.flac"], "mfcc", sample="2x2")
    finally:
        fsspec.register_implementation("memory", plain, clobber=True)
        fsspec.filesystem("memory").rm("/ranges", recursive=True)
    assert remote["embedding"].equals(carrara.embed([music / "a.flac"], "mfcc", sample="2x2")["embedding"])
    assert sum(moved) < MOST["flac"] * (music / "a.flac").stat().st_size
