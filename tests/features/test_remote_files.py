"""Recordings at addresses: fsspec's memory, an HTTP server, and an S3 store (moto's) that loses and refuses files."""

import hashlib
import http.server
import json
import socket
import sys
import threading
from pathlib import Path

import fsspec
import numpy as np
import pandas
import pyarrow.parquet as pq
import pytest
import soundfile
from typer.testing import CliRunner

import carrara
from carrara.audio.files import list_audio_files
from carrara.cli._main import app
from carrara.core import download
from carrara.core.errors import UsageError
from carrara.features.hash_cache import FileHashCache

RATE = 16_000


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def music(tmp_path):
    folder = tmp_path / "music"
    (folder / "deep").mkdir(parents=True)
    for number in range(6):
        noise = np.random.default_rng(number).uniform(-0.3, 0.3, 3 * RATE // 2)
        soundfile.write(folder / ("deep" if number % 2 else "") / f"{number}.flac", np.cumsum(noise) / 20, RATE)
    (folder / "notes.txt").write_text("no audio")
    return folder


@pytest.fixture
def memory(music):
    files = fsspec.filesystem("memory")
    files.put(str(music), "/shop", recursive=True)
    yield files
    files.rm("/shop", recursive=True)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def embed(*arguments, expected=0):
    result = run("embed", *arguments, "-e", "mfcc", "--json")
    assert result.exit_code == expected, result.stderr
    return json.loads(result.stdout), result.stderr.splitlines()


def vectors(path):
    """Return the embeddings by name of the file, wherever it lies."""
    return {Path(row["path"]).name: row["embedding"] for row in pq.read_table(path).to_pylist()}


def test_a_folder_a_pattern_and_files_of_a_store_are_embedded_as_local_files(memory, music):
    embed(music, "-o", "local.parquet")
    expected = vectors("local.parquet")
    report, _ = embed("memory://shop", "-o", "folder.parquet")
    assert report["embedded"] == 6 and vectors("folder.parquet") == expected
    paths = sorted(pq.read_table("folder.parquet")["path"].to_pylist())
    assert paths[0] == "memory://shop/0.flac" and paths[3] == "memory://shop/deep/1.flac"
    embed("memory://shop/**/*.flac", "-o", "pattern.parquet")
    assert vectors("pattern.parquet").keys() >= {"1.flac", "3.flac", "5.flac"}
    embed("memory://shop/0.flac", music / "deep", "-o", "mixed.parquet")
    assert vectors("mixed.parquet") == {name: expected[name] for name in ("0.flac", "1.flac", "3.flac", "5.flac")}
    sampled = carrara.embed(["memory://shop/0.flac"], "mfcc", sample="1x1")
    assert sampled["embedding"] == carrara.embed([music / "0.flac"], "mfcc", sample="1x1")["embedding"]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_manifests_name_addresses_and_may_be_remote_themselves(memory, music, tmp_path, kind):
    rows = pandas.DataFrame({"path": ["memory://shop/0.flac", str(music / "2.flac"), "memory://shop/none.flac"]})
    name = tmp_path / f"list.{kind}"
    rows.to_csv(name) if kind == "csv" else rows.to_parquet(name)
    report, lines = embed(name, "-o", "out.parquet", expected=1)
    assert report["failed"].keys() == {"memory://shop/none.flac"} and report["embedded"] == 2
    assert lines[0] == "carrara embed: memory://shop/none.flac: cannot be read: no such file"
    relative = pandas.DataFrame({"path": ["0.flac", "deep/1.flac"]})
    with memory.open(f"/shop/own.{kind}", "wb") as file:
        relative.to_csv(file) if kind == "csv" else relative.to_parquet(file)
    assert list_audio_files([f"memory://shop/own.{kind}"]) == ["memory://shop/0.flac", "memory://shop/deep/1.flac"]
    embed(f"memory://shop/own.{kind}", "-o", "relative.parquet")
    assert vectors("relative.parquet").keys() == {"0.flac", "1.flac"}


def test_a_second_run_downloads_only_what_the_store_has_changed(memory, music):
    embed("memory://shop", "-o", "out")
    fetched = []

    class Counting(type(memory)):
        def get_file(self, path, *arguments, **options):
            fetched.append(path)
            return super().get_file(path, *arguments, **options)

    fsspec.register_implementation("memory", Counting, clobber=True)
    try:
        assert embed("memory://shop", "-o", "out")[0]["reused"] == 6 and not fetched
        memory.pipe_file("/shop/0.flac", (music / "deep/1.flac").read_bytes())
        report, _ = embed("memory://shop", "-o", "out")
        assert (report["embedded"], report["reused"]) == (1, 5) and set(fetched) == {"/shop/0.flac"}
        assert vectors("out")["0.flac"] == vectors("out")["1.flac"]
    finally:
        fsspec.register_implementation("memory", type(memory), clobber=True)


def test_shards_of_addresses_are_one_run(memory):
    embed("memory://shop", "-o", "one.parquet")
    for shard in range(2):
        embed("memory://shop", "-o", "many", "--num-shards", 2, "--shard-index", shard)
    parts = [pq.read_table(part) for part in Path("many").rglob("part-*.parquet")]
    rows = sorted((row for part in parts for row in part.to_pylist()), key=lambda row: row["path"])
    assert rows == sorted(pq.read_table("one.parquet").to_pylist(), key=lambda row: row["path"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["memory://shop/nothing"], "memory://shop/nothing: there is no such folder, and its ending is none of audio"),
        (["memory://shop/*.mp3"], "memory://shop/*.mp3: no audio files in it"),
        (["memory://shop/none.csv"], "memory://shop/none.csv: cannot be read: no such file"),
        (["what://shop/a.wav"], "what://shop/a.wav: fsspec cannot open it: Protocol not known: what"),
        (["http://127.0.0.1/music"], "folders cannot be listed over HTTP; name audio files, or a manifest"),
        (["memory://shop/0.flac", "-o", "s3://bucket/out"], "-o s3://bucket/out: outputs are local"),
    ],
)
def test_wrong_addresses_are_one_line(memory, arguments, message):
    result = run("embed", "-o", "out.parquet", *arguments, "-e", "mfcc")
    assert result.exit_code in (1, 2) and message in result.stderr
    assert len([line for line in result.stderr.splitlines() if "files embedded" not in line]) == 1


def test_many_like_problems_are_one_line(memory):
    rows = [f"memory://shop/none-{number}.flac" for number in range(30)]
    Path("list.csv").write_text("\n".join(["path", *rows, "memory://shop/0.flac"]))
    report, lines = embed("list.csv", "-o", "out.parquet", expected=1)
    assert len(report["failed"]) == 30 and report["embedded"] == 1
    assert lines[0].endswith("none-0.flac: cannot be read: no such file (and so 29 others; --json names them)")
    assert len(lines) == 2


class Web(http.server.BaseHTTPRequestHandler):
    """Serves the files of `folder`, with an ETag if `tagged`; /moved/x redirects to `target`/x."""

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        server, path = self.server, self.path.partition("?")[0]
        server.requested.append((self.command, path))
        file = server.folder / path.lstrip("/")
        if path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", f"{server.target}/{path.removeprefix('/moved/')}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if not file.is_file():
            self.send_error(404)
            return
        body = file.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        if server.tagged:
            self.send_header("ETag", f'"{hashlib.md5(body).hexdigest()}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def web(music):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Web)
    server.folder, server.requested, server.tagged = music, [], True
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.target = server.url
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_urls_are_embedded_and_asked_again_only_for_their_version(web, music):
    embed(music, "-o", "local.parquet")
    urls = [f"{web.url}/0.flac?token=a%20b", f"{web.url}/deep/1.flac", f"{web.url}/moved/2.flac", f"{web.url}/no.flac"]
    report, lines = embed(*urls, "-o", "out.parquet", expected=1)
    assert lines[0] == f"carrara embed: {web.url}/no.flac: the host refuses it (404 Not Found)"
    expected = vectors("local.parquet")
    assert list(vectors("out.parquet").values()) == [expected[name] for name in ("0.flac", "1.flac", "2.flac")]
    web.requested.clear()
    report, _ = embed(*urls[:3], "-o", "out.parquet")
    assert report["reused"] == 3 and {command for command, _ in web.requested} == {"HEAD"}


def test_a_host_without_versions_is_downloaded_again_and_compared(web):
    web.tagged = False
    embed(f"{web.url}/0.flac", "-o", "out.parquet")
    web.requested.clear()
    report, _ = embed(f"{web.url}/0.flac", "-o", "out.parquet")
    assert report["reused"] == 1 and ("GET", "/0.flac") in web.requested


def test_redirects_to_this_machine_are_refused(web, monkeypatch):
    """As if a public host redirected to a server inside: the named host differs from the one it redirects to."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        web.target = f"http://localhost:{other.getsockname()[1]}"
        report, _ = embed(f"{web.url}/moved/0.flac", "-o", "out.parquet", expected=1)
        assert "which is not a public address" in report["failed"][f"{web.url}/moved/0.flac"]
        other.settimeout(0.1)
        with pytest.raises(TimeoutError):
            other.accept()
    assert not Path("out.parquet").exists()


def test_a_lost_host_is_one_line(monkeypatch):
    monkeypatch.setattr(download, "PAUSES_SECONDS", ())
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/a.wav"
    report, lines = embed(url, "-o", "out.parquet", expected=1)
    assert report["failed"][url].startswith(f"{url}: ") and len(lines) == 2


def test_a_hash_is_remembered_by_the_version_before_the_download(memory, music, tmp_path):
    """An object that changes while it is downloaded must not be taken for unchanged later."""
    cache = FileHashCache(tmp_path / "home")
    with cache.open("memory://shop/0.flac") as (_, before):
        assert before == hashlib.sha256((music / "0.flac").read_bytes()).hexdigest()
        memory.pipe_file("/shop/0.flac", b"other")
    assert cache.sha256("memory://shop/0.flac") == hashlib.sha256(b"other").hexdigest()


@pytest.fixture(scope="module")
def moto_server():
    server_module = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    server = server_module.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def bucket(moto_server, music, monkeypatch):
    """Return boto3's client of a store whose bucket `music` holds the recordings."""
    import boto3
    import s3fs

    for key, value in {
        "AWS_ENDPOINT_URL": moto_server,
        "AWS_ACCESS_KEY_ID": "own",
        "AWS_SECRET_ACCESS_KEY": "own",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(key, value)
    s3fs.S3FileSystem.clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket="music")
    for file in music.rglob("*.flac"):
        client.upload_file(str(file), "music", file.relative_to(music).as_posix())
    yield client
    import requests

    requests.post(f"{moto_server}/moto-api/reset", timeout=10)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.slow
def test_a_bucket_is_embedded_as_a_folder_and_only_changes_again(bucket, music):
    import s3fs

    embed(music, "-o", "local.parquet")
    report, _ = embed("s3://music", "-o", "out", "--num-shards", 1)
    assert report["embedded"] == 6 and vectors("out") == vectors("local.parquet")
    bucket.upload_file(str(music / "0.flac"), "music", "deep/7.flac")
    bucket.upload_file(str(music / "0.flac"), "music", "2.flac")
    s3fs.S3FileSystem.clear_instance_cache()  # as in another process
    report, _ = embed("s3://music", "-o", "out")
    assert (report["embedded"], report["reused"]) == (2, 5)
    assert vectors("out")["7.flac"] == vectors("out")["2.flac"] == vectors("local.parquet")["0.flac"]


@pytest.mark.slow
def test_a_bucket_that_is_gone_loses_nothing_that_was_embedded(bucket, music):
    import s3fs

    paths = [f"s3://music/{name}" for name in ("0.flac", "2.flac", "4.flac")]
    embed(paths[0], "-o", "out")
    for key in bucket.list_objects_v2(Bucket="music")["Contents"]:
        bucket.delete_object(Bucket="music", Key=key["Key"])
    bucket.delete_bucket(Bucket="music")
    s3fs.S3FileSystem.clear_instance_cache()
    report, lines = embed(*paths, "-o", "out", expected=1)
    assert len(report["failed"]) == 3 and vectors("out").keys() == {"0.flac"} and len(lines) == 4
    assert all("cannot be read: no such" in line for line in lines[:3])
    result = run("embed", "s3://music", "-e", "mfcc", "-o", "out")
    assert result.exit_code == 1 and len(result.stderr.splitlines()) == 1
    bucket.create_bucket(Bucket="music")
    for name in ("0.flac", "2.flac", "4.flac"):
        bucket.upload_file(str(music / name), "music", name)
    s3fs.S3FileSystem.clear_instance_cache()
    report, _ = embed(*paths, "-o", "out")
    assert (report["embedded"], report["reused"]) == (2, 1)  # by its content, though its time of writing is another


@pytest.mark.slow
def test_a_refused_object_is_one_line_and_the_rest_goes_on(bucket, music, moto_server, monkeypatch):
    import boto3
    import requests
    import s3fs

    iam = boto3.client("iam")
    iam.create_user(UserName="reader")
    statements = [
        {"Effect": "Allow", "Action": "s3:*", "Resource": "*"},
        {"Effect": "Deny", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::music/2.flac"},
    ]
    policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
    iam.put_user_policy(UserName="reader", PolicyName="most", PolicyDocument=policy)
    key = iam.create_access_key(UserName="reader")["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    requests.post(f"{moto_server}/moto-api/reset-auth", data="0", timeout=10)
    try:
        s3fs.S3FileSystem.clear_instance_cache()
        report, lines = embed("s3://music", "-o", "out", expected=1)
    finally:
        requests.post(f"{moto_server}/moto-api/reset-auth", data="inf", timeout=10)
    assert lines[0] == "carrara embed: s3://music/2.flac: cannot be read: permission denied"
    assert report["embedded"] == 5 and len(lines) == 2
    s3fs.S3FileSystem.clear_instance_cache()
    report, _ = embed("s3://music", "-o", "out")
    assert (report["embedded"], report["reused"]) == (1, 5)


def test_a_store_whose_package_is_missing_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "adlfs", None)
    with pytest.raises(UsageError, match=r"abfs://.*fsspec cannot open it: .*adlfs"):
        list_audio_files(["abfs://container/music"])
