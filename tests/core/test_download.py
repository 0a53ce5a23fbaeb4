"""Downloads from a server that behaves badly, and archives that want to leave their folder."""

import hashlib
import http.server
import io
import tarfile
import threading
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carrara.core import download as module
from carrara.core.download import Remote, download, joined
from carrara.core.errors import DataError, StoreError
from carrara.core.unpack import unpack

BODY = np.random.default_rng(0).bytes(300_000)
SUM = hashlib.sha256(BODY).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves `body`; drops each connection after so many bytes of the list `drops`."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.etag, self.ranges, self.drops, self.asked = BODY, '"one"', True, [], []
        self.status = 200

    def url(self, name="file.bin"):
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    def log_message(self, *given):
        pass

    def do_GET(self):
        server = self.server
        asked, begin = self.headers.get("Range"), 0
        server.asked.append(asked)
        if server.status != 200:
            self.send_error(server.status)
            return
        if asked and server.ranges and self.headers.get("If-Range") == server.etag:
            begin = int(asked.removeprefix("bytes=").removesuffix("-"))
            if begin >= len(server.body):
                self.send_error(416)
                return
        self.send_response(206 if begin else 200)
        self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(len(server.body) - begin))
        self.end_headers()
        part = server.body[begin:]
        self.wfile.write(part[: server.drops.pop(0)] if server.drops else part)


@pytest.fixture(scope="module")
def running():
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def server(running, monkeypatch):
    running.body, running.etag, running.ranges, running.status = BODY, '"one"', True, 200
    running.drops, running.asked = [], []
    monkeypatch.setattr(module, "PAUSES", (0.0, 0.0, 0.0))
    return running


def test_a_file_arrives_whole_and_is_not_asked_for_again(server, tmp_path):
    remote = Remote(server.url(), "deep/file.bin", SUM)
    assert download(remote, tmp_path) == tmp_path / "deep/file.bin"
    assert (tmp_path / "deep/file.bin").read_bytes() == BODY
    download(remote, tmp_path)
    assert len(server.asked) == 1
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file.bin"]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 200_000), max_size=3))
def test_dropped_connections_go_on_where_they_broke_off(server, tmp_path_factory, drops):
    server.drops, server.asked = list(drops), []
    root = tmp_path_factory.mktemp("drops")
    download(Remote(server.url(), "file.bin", SUM), root)
    assert (root / "file.bin").read_bytes() == BODY
    have = 0
    for asked, drop in zip(server.asked, [*drops, 0]):
        assert asked == (f"bytes={have}-" if have else None)
        have += drop


def test_a_later_call_goes_on_and_says_where(server, tmp_path):
    server.drops = [100_000, 0, 0, 0]
    remote = Remote(server.url(), "file.bin", SUM)
    with pytest.raises(DataError, match=r"goes on from 0\.1 MB"):
        download(remote, tmp_path)
    server.asked.clear()
    download(remote, tmp_path)
    assert server.asked == ["bytes=100000-"] and (tmp_path / "file.bin").read_bytes() == BODY


@pytest.mark.parametrize("change", ["another version", "no ranges"])
def test_a_file_that_cannot_be_continued_begins_anew(server, tmp_path, change):
    server.drops = [100_000, 0, 0, 0]
    remote = Remote(server.url(), "file.bin")
    with pytest.raises(DataError):
        download(remote, tmp_path)
    if change == "no ranges":
        server.ranges = False
    else:
        server.etag, server.body = '"two"', BODY[::-1]
    download(remote, tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == server.body


def test_another_content_is_refused_and_removed(server, tmp_path):
    server.body = BODY[:-1] + b"x"
    with pytest.raises(DataError, match=f"should have {SUM}"):
        download(Remote(server.url(), "file.bin", SUM), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"\n<!DOCTYPE html><p>log in", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid x", "LFS pointer"),
    ],
)
def test_a_page_or_a_pointer_in_the_files_place_is_recognised(server, tmp_path, body, says):
    server.body = body
    with pytest.raises(DataError, match=says):
        download(Remote(server.url(), "file.bin"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_there_is_not_asked_for_twice(server, tmp_path):
    server.status = 404
    with pytest.raises(DataError, match="Not Found"):
        download(Remote(server.url(), "file.bin"), tmp_path)
    assert len(server.asked) == 1
    server.status = 503
    with pytest.raises(DataError):
        download(Remote(server.url(), "file.bin"), tmp_path)
    assert len(server.asked) == 5


def test_a_folder_that_cannot_be_made_is_named(server, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StoreError, match="taken"):
        download(Remote(server.url(), "taken/file.bin"), tmp_path)


def test_a_part_that_is_complete_already_is_taken(server, tmp_path):
    (tmp_path / ".file.bin.part").write_bytes(BODY)
    (tmp_path / ".file.bin.part.version").write_text('"one"')
    download(Remote(server.url(), "file.bin", SUM), tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == BODY


def zipped(members):
    page = io.BytesIO()
    with zipfile.ZipFile(page, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return page.getvalue()


def tarred(members, kind="w:gz"):
    page = io.BytesIO()
    with tarfile.open(fileobj=page, mode=kind) as archive:
        for name, body in members.items():
            info = body if isinstance(body, tarfile.TarInfo) else tarfile.TarInfo(name)
            if not isinstance(body, tarfile.TarInfo):
                info.size = len(body)
            archive.addfile(info, None if isinstance(body, tarfile.TarInfo) else io.BytesIO(body))
    return page.getvalue()


@pytest.mark.parametrize("pack", [zipped, tarred, lambda members: tarred(members, "w:xz")])
def test_an_archive_is_unpacked_once_and_its_space_given_back(server, tmp_path, pack):
    server.body = pack({"a/one.txt": b"one", "two é.txt": b"two"})
    remote = Remote(server.url("data.archive"), "data.archive", unpack="inside")
    assert download(remote, tmp_path) == tmp_path / "inside"
    assert (tmp_path / "inside/a/one.txt").read_bytes() == b"one"
    assert (tmp_path / "inside/two é.txt").read_bytes() == b"two"
    assert not (tmp_path / "data.archive").exists()
    download(remote, tmp_path)
    assert len(server.asked) == 1


def link(name, to):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, to
    return info


@pytest.mark.parametrize(
    "content",
    [
        zipped({"good.txt": b"1", "../evil.txt": b"2"}),
        zipped({"good.txt": b"1", "/tmp/evil.txt": b"2"}),
        zipped({"good.txt": b"1", "a\\..\\..\\evil.txt": b"2"}),
        zipped({"good.txt": b"1", "C:\\evil.txt": b"2"}),
        tarred({"good.txt": b"1", "a/../../evil.txt": b"2"}),
        tarred({"good.txt": b"1", "way": link("way", "/tmp")}),
        tarred({"way": link("way", ".."), "way/evil.txt": b"2"}),
    ],
)
def test_a_member_that_would_leave_the_folder_stops_everything_before_it_begins(tmp_path, content):
    path = tmp_path / "archive"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"outside|link"):
        unpack(path, tmp_path / "here")
    assert not (tmp_path / "here").exists() and not (tmp_path / "evil.txt").exists()


def test_a_link_that_stands_in_the_folder_already_is_not_followed(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here/way").symlink_to(tmp_path)
    (tmp_path / "archive").write_bytes(zipped({"way/evil.txt": b"2"}))
    with pytest.raises(DataError, match="follow a link"):
        unpack(tmp_path / "archive", tmp_path / "here")
    assert not (tmp_path / "evil.txt").exists()


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_an_archive_cut_short_is_named(tmp_path, pack, share):
    content = pack({"a": np.random.default_rng(1).bytes(50_000), "b": b"2"})
    (tmp_path / "archive").write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match="download it again"):
        unpack(tmp_path / "archive", tmp_path / "here")


def test_parts_are_joined_in_order_or_the_missing_one_is_named(tmp_path):
    content = zipped({"x.txt": b"x" * 1000})
    parts = [tmp_path / f"mp3.zip.00{number}" for number in (1, 2, 3)]
    for part, low in zip(parts, range(0, 300, 50)):
        part.write_bytes(content[low : low + 50] if part is not parts[-1] else content[low:])
    unpack(joined(parts, tmp_path / "mp3.zip"), tmp_path)
    assert (tmp_path / "x.txt").read_bytes() == b"x" * 1000
    parts[1].unlink()
    with pytest.raises(DataError, match=r"mp3\.zip\.002"):
        joined(parts, tmp_path / "mp3.zip")
