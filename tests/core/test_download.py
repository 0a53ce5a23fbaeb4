"""Downloads from a server that drops connections, stalls, changes its file, or serves something else."""

import errno
import hashlib
import io
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carrara.core.download import CHUNK_BYTES, Remote, download
from carrara.core.errors import DataError, StoreError

BODY = np.random.default_rng(0).bytes(300_000)
SUM = hashlib.sha256(BODY).hexdigest()
KILL = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"


@pytest.fixture
def pauses(monkeypatch):
    """Return the pauses in seconds, none of which is waited for."""
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    return pauses


@pytest.fixture
def server(running, pauses):
    running.reset(BODY)
    return running


def test_a_file_is_downloaded_once(server, tmp_path):
    remote = Remote(server.url(), "deep/file.bin", SUM)
    assert download(remote, tmp_path) == tmp_path / "deep/file.bin"
    assert (tmp_path / "deep/file.bin").read_bytes() == BODY
    download(remote, tmp_path)
    assert len(server.requested) == 1
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file.bin"]


def test_an_existing_file_is_kept_unless_its_hash_differs(server, tmp_path):
    (tmp_path / "file.bin").write_bytes(b"mine")
    download(Remote(server.url(), "file.bin"), tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == b"mine" and not server.requested
    download(Remote(server.url(), "file.bin", SUM), tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == BODY


def begin_of(requested):
    """Return the first byte of a request; a connection loses less than a chunk when it drops."""
    return int(requested.removeprefix("bytes=").removesuffix("-")) if requested else 0


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 150_000), max_size=4))
def test_dropped_connections_resume_where_they_broke_off(server, tmp_path_factory, drops):
    server.drops, server.requested = list(drops), []
    root = tmp_path_factory.mktemp("drops")
    download(Remote(server.url(), "file.bin"), root)
    assert (root / "file.bin").read_bytes() == BODY
    sent = 0
    for requested, drop in zip(server.requested, [*drops, 0]):
        begin = begin_of(requested)
        assert begin == sent or sent - CHUNK_BYTES < begin < sent
        sent = begin + drop


def test_downloading_continues_while_each_connection_delivers_bytes(server, tmp_path, pauses):
    server.drops = [20_000] * 12
    download(Remote(server.url(), "file.bin"), tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == BODY
    assert pauses == [1.0] * 12


def test_connections_that_are_reset_resume(server, tmp_path):
    server.drops, server.resets_connection = [200_000, 50_000], True
    download(Remote(server.url(), "file.bin"), tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == BODY


@pytest.mark.parametrize("sha256", [None, SUM, SUM[:16]])
def test_a_later_call_resumes_and_reports_the_offset(server, tmp_path, pauses, sha256):
    server.drops = [100_000, 0, 0, 0, 0, 0]
    remote = Remote(server.url(), "file.bin", sha256)
    with pytest.raises(DataError, match=r"run the same command again, it resumes at 0\.1 MB") as caught:
        download(remote, tmp_path)
    assert server.url() in str(caught.value) and "\n" not in str(caught.value)
    assert pauses == [1.0, 1.0, 3.0, 10.0, 30.0]
    assert not (tmp_path / "file.bin").exists()
    server.requested.clear()
    download(remote, tmp_path)
    assert 100_000 - CHUNK_BYTES < begin_of(server.requested[0]) <= 100_000 and len(server.requested) == 1
    assert (tmp_path / "file.bin").read_bytes() == BODY


@pytest.mark.parametrize(
    ("version", "sha256", "resumes"),
    [
        ({"Last-Modified": "Sat, 21 Nov 2026 12:00:00 GMT"}, None, True),
        ({"ETag": 'W/"one"', "Last-Modified": "Sat, 21 Nov 2026 12:00:00 GMT"}, None, True),
        ({"ETag": 'W/"one"'}, None, False),
        ({}, None, False),
        ({}, SUM, True),
    ],
)
def test_a_file_resumes_only_with_a_version_or_a_hash(server, tmp_path, version, sha256, resumes):
    server.version, server.drops = version, [100_000]
    download(Remote(server.url(), "file.bin", sha256), tmp_path)
    assert [bool(requested) for requested in server.requested] == [False, resumes]
    assert (tmp_path / "file.bin").read_bytes() == BODY


CHANGES = [
    "version",
    "version, If-Range ignored",
    "version, unstated in parts",
    "shorter",
    "no ranges",
    "another range",
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_cannot_resume_starts_over(server, tmp_path, change):
    server.drops = [100_000, 0, 0, 0, 0, 0]
    remote = Remote(server.url(), "file.bin")
    with pytest.raises(DataError):
        download(remote, tmp_path)
    if change.startswith("version"):
        server.version, server.body = {"ETag": '"two"'}, BODY[::-1]
        server.obeys_if_range = "ignored" not in change
        server.has_version_in_parts = "unstated" not in change
    elif change == "shorter":
        server.obeys_if_range, server.body = False, BODY[:50_000]
    elif change == "no ranges":
        server.has_ranges = False
    else:
        server.shift = 10
    download(remote, tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == server.body
    assert [path.name for path in tmp_path.iterdir()] == ["file.bin"]


def test_downloading_fails_if_a_server_without_ranges_always_drops(server, tmp_path):
    server.has_ranges, server.drops = False, [100_000] * 50
    with pytest.raises(DataError, match="broke off after 0.1 MB"):
        download(Remote(server.url(), "file.bin"), tmp_path)
    assert len(server.requested) == 1 + 1 + 4


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_download_resumes(server, tmp_path, by):
    server.drops, server.stall = [280_000], True
    program = KILL + "from pathlib import Path; from carrara.core.download import *\n"
    program += "download(Remote(sys.argv[1], 'file.bin'), Path(sys.argv[2]))"
    child = subprocess.Popen([sys.executable, "-c", program, server.url(), tmp_path], stderr=subprocess.DEVNULL)
    part = tmp_path / ".file.bin.part"
    waiting = threading.Event()
    for _ in range(30_000):
        if part.exists() and part.stat().st_size:
            break
        waiting.wait(0.01)
    child.send_signal(by)
    assert child.wait(120) != 0
    server.released.set()
    begun = part.stat().st_size
    assert 0 < begun < len(BODY)
    server.stall = False
    download(Remote(server.url(), "file.bin", SUM), tmp_path)
    assert server.requested == [None, f"bytes={begun}-"]
    assert (tmp_path / "file.bin").read_bytes() == BODY


def test_a_complete_partial_file_is_used(server, tmp_path):
    (tmp_path / ".file.bin.part").write_bytes(BODY)
    (tmp_path / ".file.bin.part.version").write_text('"one"')
    server.drops = [0]
    download(Remote(server.url(), "file.bin", SUM), tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == BODY and server.requested == ["bytes=300000-"]


def test_content_with_another_hash_is_refused_and_removed(server, tmp_path):
    server.body = BODY[:-1] + b"x"
    with pytest.raises(DataError, match=f"has SHA-256 .*not {SUM}.*try again") as caught:
        download(Remote(server.url(), "file.bin", SUM), tmp_path)
    assert hashlib.sha256(server.body).hexdigest() in str(caught.value) and server.url() in str(caught.value)
    assert list(tmp_path.iterdir()) == []


PAGE = b"\n<!DOCTYPE html><p>log in"


@pytest.mark.parametrize(
    ("body", "message"),
    [(PAGE, "web page"), (b"\xef\xbb\xbf<HTML>", "web page"), (b"version https://git-lfs.github.com/spec/v1\n", "LFS")],
)
def test_a_web_page_or_a_pointer_instead_of_the_file_is_refused(server, tmp_path, body, message):
    server.body = body
    with pytest.raises(DataError, match=message):
        download(Remote(server.url(), "file.bin"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_web_page_that_was_requested_is_kept(server, tmp_path):
    server.body = PAGE
    download(Remote(server.url(), "read.HTML"), tmp_path)
    assert (tmp_path / "read.HTML").read_bytes() == PAGE


@pytest.mark.parametrize(("status", "times"), [(404, 1), (403, 1), (503, 5), (429, 5)])
def test_a_refusal_is_not_retried_and_a_temporary_fault_is(server, tmp_path, status, times):
    server.status = status
    with pytest.raises(DataError, match=str(status)):
        download(Remote(server.url(), "file.bin"), tmp_path)
    assert len(server.requested) == times


def test_a_missing_server_is_reported(tmp_path, pauses):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/file.bin"
        with pytest.raises(DataError, match="Connection refused; check the network connection") as caught:
            download(Remote(url, "file.bin"), tmp_path)
    assert url in str(caught.value) and pauses == [1.0, 3.0, 10.0, 30.0]


@pytest.mark.parametrize(
    ("owner", "function", "problem"),
    [
        (socket, "getaddrinfo", socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")),
        (socket, "getaddrinfo", socket.gaierror(socket.EAI_NONAME, "Name or service not known")),
        (socket.socket, "connect", OSError(errno.ENETUNREACH, "Network is unreachable")),
    ],
)
def test_without_a_network_there_is_one_retry(tmp_path, pauses, monkeypatch, owner, function, problem):
    def fail(*_, **__):
        raise problem

    monkeypatch.setattr(owner, function, fail)
    with pytest.raises(DataError, match=f"{problem.strerror}; check the network connection"):
        download(Remote("https://192.0.2.1/file.bin", "file.bin"), tmp_path)
    assert pauses == [1.0]


def test_a_connection_that_is_reset_is_not_reported_as_a_full_disk(server, tmp_path):
    server.has_ranges, server.resets_connection, server.drops = False, True, [100_000] * 50
    with pytest.raises(DataError, match="broke off after 0.1 MB"):
        download(Remote(server.url(), "file.bin"), tmp_path)


def test_a_folder_that_cannot_be_created_is_named(server, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StoreError, match="taken"):
        download(Remote(server.url(), "taken/file.bin"), tmp_path)


def test_a_full_disk_is_named(server, tmp_path, monkeypatch):
    opened = os.open
    monkeypatch.setattr(
        os, "open", lambda path, *a, **b: opened("/dev/full" if ".part" in str(path) else path, *a, **b)
    )
    with pytest.raises(StoreError, match=r"file\.bin: cannot be written \(No space left on device\)"):
        download(Remote(server.url(), "file.bin"), tmp_path)


@pytest.mark.parametrize("name", [".file.bin.part", ".file.bin.part.version"])
def test_a_link_in_the_place_of_a_part_is_refused(server, tmp_path, name):
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / name).symlink_to(tmp_path / "mine")
    with pytest.raises(StoreError, match="is a symbolic link, which is not followed; remove it"):
        download(Remote(server.url(), "file.bin"), tmp_path)
    assert (tmp_path / "mine").read_bytes() == b"mine" and not server.requested
    (tmp_path / name).unlink()
    assert download(Remote(server.url(), "file.bin"), tmp_path).read_bytes() == BODY


PRIVATE = ["127.0.0.1:1", "localhost:1", "[::1]:1", "169.254.169.254", "10.0.0.1", "192.168.1.1", "0.0.0.0:1",
           "2130706433", "[::ffff:127.0.0.1]", "[fe80::1]", "100.64.0.1", "224.0.0.1",
           "[fe80::1%25eth0]", "[64:ff9b::7f00:1]", "[2002:a9fe:a9fe::]", "[fec0::1]", "[::]", "127.1", "0x7f000001",
           "[::127.0.0.1]", "[::ffff:0:10.0.0.1]", "example.org@127.0.0.1"]  # fmt: skip


@pytest.mark.parametrize("host", PRIVATE)
def test_a_redirect_to_an_address_that_is_not_public_is_refused(server, tmp_path, host):
    server.redirect = f"http://{host}/secret"
    with pytest.raises(DataError, match="the host refuses it .it redirects to .*not a public address") as caught:
        download(Remote(server.url(), "file.bin"), tmp_path)
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == [] and len(server.requested) == 1


@pytest.mark.parametrize("target", ["ftp://example.org/x", "file:///etc/passwd"])
def test_a_redirect_to_another_scheme_is_refused(server, tmp_path, target):
    server.redirect = target
    with pytest.raises(DataError, match="which is not https"):
        download(Remote(server.url(), "file.bin"), tmp_path)


@pytest.mark.parametrize("target", ["http://[::1/x", "http://127.0.0.1:99999/x", "http://127.0.0.1:x/y"])
def test_a_redirect_to_no_address_is_refused(server, tmp_path, target):
    server.redirect = target
    with pytest.raises(DataError, match="the host refuses it .it redirects to .*, which is no address") as caught:
        download(Remote(server.url(), "file.bin"), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl, which makes the server's certificate")
def test_a_redirect_from_https_to_http_is_refused(server, tmp_path, monkeypatch):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {key} -out {certificate} "
        "-days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1".split(),
        check=True,
        capture_output=True,
    )
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    secure = type(server)()
    secure.reset(BODY)
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    threading.Thread(target=secure.serve_forever, args=(0.02,), daemon=True).start()
    try:
        address = secure.url().replace("http://", "https://")
        secure.redirect = "/elsewhere"
        assert download(Remote(address, "other.bin"), tmp_path).read_bytes() == BODY
        secure.redirect = "http://example.org/x"
        with pytest.raises(DataError, match="redirects to http://example.org/x, which is not https"):
            download(Remote(address, "file.bin"), tmp_path)
    finally:
        secure.shutdown()
        secure.server_close()


def test_a_redirect_within_one_server_is_followed(server, tmp_path):
    server.redirect = "/elsewhere"
    assert download(Remote(server.url(), "file.bin", SUM), tmp_path).read_bytes() == BODY
    assert len(server.requested) == 2


def test_no_dataset_is_downloaded_by_plain_http():
    from carrara.data import REGISTRY

    remotes = [remote for name in REGISTRY.names() for remote in REGISTRY.get(name).remotes]
    assert remotes and all(remote.url.startswith("https://") for remote in remotes)


def zipped(name):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, b"content")
    return buffer.getvalue()


def test_an_archive_is_unpacked_once_and_removed(server, tmp_path):
    server.body = zipped("a/one.txt")
    remote = Remote(server.url("data.zip"), "data.zip", unpack="inside")
    assert download(remote, tmp_path) == tmp_path / "inside"
    assert (tmp_path / "inside/a/one.txt").read_bytes() == b"content"
    assert sorted(os.listdir(tmp_path)) == [".data.zip.unpacked", "inside"]
    assert download(remote, tmp_path) == tmp_path / "inside"
    assert len(server.requested) == 1


def test_another_version_of_an_archive_is_unpacked_again(server, tmp_path):
    server.body = zipped("old.txt")
    download(Remote(server.url(), "data.zip", unpack="."), tmp_path)
    server.body = zipped("new.txt")
    pinned = hashlib.sha256(server.body).hexdigest()
    download(Remote(server.url(), "data.zip", pinned, unpack="."), tmp_path)
    assert (tmp_path / "new.txt").exists() and pinned in (tmp_path / ".data.zip.unpacked").read_text()
    (tmp_path / "new.txt").unlink()
    download(Remote(server.url(), "data.zip", pinned, unpack="."), tmp_path)
    assert len(server.requested) == 2


def test_an_archive_that_is_cut_short_at_its_source_is_kept_and_named(server, tmp_path):
    server.body = zipped("one.txt")[:-5]
    with pytest.raises(DataError, match="data.zip: cannot be unpacked"):
        download(Remote(server.url(), "data.zip", unpack="inside"), tmp_path)
    assert os.listdir(tmp_path) == ["data.zip"]
