"""Recordings at hf:// and gs:// addresses: stand-ins of both stores behind the stores' own libraries."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from typer.testing import CliRunner

from carrara.cli._main import app

RATE, COMMIT = 16_000, "0123456789abcdef0123456789abcdef01234567"


class Routes(BaseHTTPRequestHandler):
    """Answers of the hub (dataset lab/music) and of Google Cloud Storage (bucket music) for the same files."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def reply(self, value=None, body=None, status=200, headers=None):
        body = json.dumps(value).encode() if body is None else body
        self.send_response(status)
        for name, content in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, content)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status):
        self.reply({"error": {"code": status, "message": "refused"}}, status=status)

    def do_HEAD(self):
        self.do_GET()

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        fields = json.loads(body) if body.startswith("{") else parse_qs(body)
        paths = fields["paths"] if isinstance(fields["paths"], list) else [fields["paths"]]
        self.reply([self.hub_entry(path) for path in paths if path in self.server.files])

    def do_GET(self):
        files, url = self.server.files, urlsplit(self.path)
        path, query = unquote(url.path), parse_qs(url.query)
        if path.startswith("/api/datasets/lab/music/tree/"):
            folder = path.partition("/tree/main")[2].strip("/") or path.partition(f"/tree/{COMMIT}")[2].strip("/")
            self.reply(self.hub_folder(folder, query.get("recursive", ["false"])[0].lower() == "true"))
        elif path.startswith("/api/datasets/lab/music"):
            self.reply({"id": "lab/music", "sha": COMMIT, "tags": [], "siblings": []})
        elif path.startswith("/datasets/lab/music/resolve/"):
            self.send_object(path.split("/", 6)[6])
        elif path.startswith("/download/storage/v1/b/music/o/"):
            self.send_object(path.removeprefix("/download/storage/v1/b/music/o/"))
        elif path.rstrip("/") == "/storage/v1/b/music/o":
            prefix = query.get("prefix", [""])[0]
            self.reply({"items": [self.gcs_entry(name) for name in files if name.startswith(prefix)]})
        elif path.startswith("/storage/v1/b/music/o/"):
            name = path.removeprefix("/storage/v1/b/music/o/")
            self.reply(self.gcs_entry(name)) if name in files else self.refuse(404)
        else:
            self.refuse(404)

    def send_object(self, name):
        if name in self.server.refused or name not in self.server.files:
            self.refuse(403 if name in self.server.refused else 404)
            return
        self.server.sent.append(name)
        body = self.server.files[name]
        headers = {"ETag": f'"{hashlib.md5(body).hexdigest()}"', "X-Repo-Commit": COMMIT}
        self.reply(body=body, headers={**headers, "Content-Type": "application/octet-stream"})

    def hub_entry(self, path):
        body = self.server.files[path]
        return {"type": "file", "path": path, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}

    def hub_folder(self, folder, recursive):
        inside = [path for path in self.server.files if not folder or path.startswith(f"{folder}/")]
        depth = len(folder.split("/")) if folder else 0
        folders = {"/".join(path.split("/")[: depth + 1]) for path in inside if path.count("/") > depth}
        entries = [{"type": "directory", "path": path, "size": 0, "oid": COMMIT} for path in sorted(folders)]
        return entries + [self.hub_entry(path) for path in inside if recursive or path.count("/") == depth]

    def gcs_entry(self, name):
        body = self.server.files[name]
        checksum = hashlib.md5(body).hexdigest()
        return {"kind": "storage#object", "bucket": "music", "name": name, "size": str(len(body)), "md5Hash": checksum}


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Routes)
    server.files, server.sent, server.refused = {}, [], set()
    for number in range(3):
        noise = np.random.default_rng(number).uniform(-0.3, 0.3, RATE)
        path = tmp_path / "music" / ("deep" if number else "") / f"{number}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.cumsum(noise) / 20, RATE)
        server.files[path.relative_to(tmp_path / "music").as_posix()] = path.read_bytes()
    server.files["notes.txt"] = b"no audio"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    server.url = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(params=["hf", "gs"])
def address(request, store, monkeypatch):
    """Return the folder of the recordings in a store, and a function after which it is a new process's."""
    if request.param == "hf":
        from huggingface_hub import HfFileSystem as FileSystem
        from huggingface_hub import constants

        # huggingface_hub reads the environment when it is imported, so its constants are set.
        monkeypatch.setattr(constants, "ENDPOINT", store.url)
        template = store.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        folder = "hf://datasets/lab/music"
    else:
        pytest.importorskip("gcsfs")
        monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", store.url)
        from gcsfs import GCSFileSystem as FileSystem

        folder = "gs://music"
    FileSystem.clear_instance_cache()
    yield folder, FileSystem.clear_instance_cache
    FileSystem.clear_instance_cache()


def embed(*arguments, expected=0):
    command = ["embed", *(str(argument) for argument in arguments), "-e", "mfcc", "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == expected and result.stdout, result.stderr
    return json.loads(result.stdout), result.stderr.splitlines()


def vectors(path):
    return {Path(row["path"]).name: row["embedding"] for row in pq.read_table(path).to_pylist()}


@pytest.mark.slow
def test_a_folder_is_embedded_as_local_files_and_only_changes_are_moved_again(store, address):
    folder, renew = address
    embed("music", "-o", "local.parquet")
    report, _ = embed(folder, "-o", "out.parquet")
    assert report["embedded"] == 3 and vectors("out.parquet") == vectors("local.parquet")
    assert sorted(store.sent) == ["0.flac", "deep/1.flac", "deep/2.flac"]
    assert pq.read_table("out.parquet")["path"].to_pylist()[0].startswith(f"{folder}/")
    store.sent.clear()
    renew()
    report, _ = embed(folder, "-o", "out.parquet")
    assert report["reused"] == 3 and not store.sent
    store.files["0.flac"] = store.files["deep/1.flac"]
    renew()
    report, _ = embed(folder, "-o", "out.parquet")
    assert (report["embedded"], report["reused"]) == (1, 2) and set(store.sent) == {"0.flac"}
    assert vectors("out.parquet")["0.flac"] == vectors("local.parquet")["1.flac"]


@pytest.mark.slow
def test_a_refused_and_a_missing_file_are_a_line_each_and_the_rest_goes_on(store, address):
    folder, _ = address
    store.refused.add("deep/1.flac")
    report, lines = embed(folder, f"{folder}/gone.flac", "-o", "out.parquet", expected=1)
    assert report["embedded"] == 2 and len(report["failed"]) == 2 and len(lines) == 3
    assert report["failed"][f"{folder}/gone.flac"].endswith("gone.flac: cannot be read: no such file")
    assert "deep/1.flac: cannot be read" in report["failed"][f"{folder}/deep/1.flac"]
