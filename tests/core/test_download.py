"""Downloads from a server that drops, stalls, changes its file, or serves something else."""

import errno
import hashlib
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carrara.core import download as module
from carrara.core.download import Remote, download
from carrara.core.errors import DataError, StoreError

BODY = np.random.default_rng(0).bytes(300_000)
SUM = hashlib.sha256(BODY).hexdigest()
KILL = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"


@pytest.fixture
def pauses(monkeypatch):
    """What the program would have slept, in seconds, one after another."""
    slept = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    return slept


@pytest.fixture
def server(running, pauses):
    running.fresh(BODY)
    return running


def test_a_file_arrives_whole_and_is_not_asked_for_again(server, tmp_path):
    remote = Remote(server.url(), "deep/file.bin", SUM)
    assert download(remote, tmp_path) == tmp_path / "deep/file.bin"
    assert (tmp_path / "deep/file.bin").read_bytes() == BODY
    download(remote, tmp_path)
    assert len(server.asked) == 1
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file.bin"]


def test_what_stands_there_is_kept_unless_its_hash_is_another(server, tmp_path):
    (tmp_path / "file.bin").write_bytes(b"mine")
    download(Remote(server.url(), "file.bin"), tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == b"mine" and not server.asked
    download(Remote(server.url(), "file.bin", SUM), tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == BODY


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 150_000), max_size=4))
def test_dropped_connections_go_on_where_they_broke_off(server, tmp_path_factory, drops):
    server.drops, server.asked = list(drops), []
    root = tmp_path_factory.mktemp("drops")
    download(Remote(server.url(), "file.bin"), root)
    assert (root / "file.bin").read_bytes() == BODY
    have = 0
    for asked, drop in zip(server.asked, [*drops, 0]):
        assert asked == (f"bytes={have}-" if have else None)
        have += drop


def test_a_line_that_drops_often_but_brings_something_is_not_given_up(server, tmp_path, pauses):
    server.drops = [20_000] * 12
    download(Remote(server.url(), "file.bin"), tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == BODY
    assert pauses == [1.0] * 12


def test_connections_that_are_reset_are_gone_on_with(server, tmp_path):
    server.drops, server.reset = [200_000, 50_000], True
    download(Remote(server.url(), "file.bin"), tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == BODY


@pytest.mark.parametrize("sha256", [None, SUM, SUM[:16]])
def test_a_later_call_goes_on_and_says_where(server, tmp_path, pauses, sha256):
    server.drops = [100_000, 0, 0, 0, 0, 0]
    remote = Remote(server.url(), "file.bin", sha256)
    with pytest.raises(DataError, match=r"run the same command again, it goes on from 0\.1 MB") as caught:
        download(remote, tmp_path)
    assert server.url() in str(caught.value) and "\n" not in str(caught.value)
    assert pauses == [1.0, 1.0, 3.0, 10.0, 30.0]
    assert not (tmp_path / "file.bin").exists()
    server.asked.clear()
    download(remote, tmp_path)
    assert server.asked == ["bytes=100000-"] and (tmp_path / "file.bin").read_bytes() == BODY


@pytest.mark.parametrize(
    ("stated", "sha256", "goes_on"),
    [
        ({"Last-Modified": "Sat, 21 Nov 2026 12:00:00 GMT"}, None, True),
        ({"ETag": 'W/"one"', "Last-Modified": "Sat, 21 Nov 2026 12:00:00 GMT"}, None, True),
        ({"ETag": 'W/"one"'}, None, False),
        ({}, None, False),
        ({}, SUM, True),
    ],
)
def test_a_file_is_continued_only_where_something_vouches_for_it(server, tmp_path, stated, sha256, goes_on):
    server.stated, server.drops = stated, [100_000]
    download(Remote(server.url(), "file.bin", sha256), tmp_path)
    assert server.asked == [None, "bytes=100000-" if goes_on else None]
    assert (tmp_path / "file.bin").read_bytes() == BODY


CHANGES = ["version", "version, unheeded", "version, unstated in parts", "shorter", "no ranges", "another range"]


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_cannot_be_continued_begins_anew(server, tmp_path, change):
    server.drops = [100_000, 0, 0, 0, 0, 0]
    remote = Remote(server.url(), "file.bin")
    with pytest.raises(DataError):
        download(remote, tmp_path)
    if change.startswith("version"):
        server.stated, server.body = {"ETag": '"two"'}, BODY[::-1]
        server.heeds_if_range = "unheeded" not in change
        server.states_in_parts = "unstated" not in change
    elif change == "shorter":
        server.heeds_if_range, server.body = False, BODY[:50_000]
    elif change == "no ranges":
        server.ranges = False
    else:
        server.shift = 10
    download(remote, tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == server.body
    assert [path.name for path in tmp_path.iterdir()] == ["file.bin"]


def test_a_server_without_ranges_that_always_drops_is_given_up(server, tmp_path):
    server.ranges, server.drops = False, [100_000] * 50
    with pytest.raises(DataError, match="broke off after 0.1 of 0.3 MB"):
        download(Remote(server.url(), "file.bin"), tmp_path)
    assert len(server.asked) == 1 + 1 + 4


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
def test_a_download_that_was_stopped_goes_on(server, tmp_path, by):
    server.drops, server.stall = [280_000], True
    program = KILL + "from pathlib import Path; from carrara.core.download import *\n"
    program += "download(Remote(sys.argv[1], 'file.bin'), Path(sys.argv[2]))"
    child = subprocess.Popen([sys.executable, "-c", program, server.url(), tmp_path], stderr=subprocess.DEVNULL)
    part = tmp_path / ".file.bin.part"
    waiting = threading.Event()
    for _ in range(1000):
        if part.exists() and part.stat().st_size:
            break
        waiting.wait(0.01)
    child.send_signal(by)
    assert child.wait(10) != 0
    server.released.set()
    begun = part.stat().st_size
    assert 0 < begun < len(BODY)
    server.stall = False
    download(Remote(server.url(), "file.bin", SUM), tmp_path)
    assert server.asked == [None, f"bytes={begun}-"]
    assert (tmp_path / "file.bin").read_bytes() == BODY


def test_a_part_that_is_complete_already_is_taken(server, tmp_path):
    (tmp_path / ".file.bin.part").write_bytes(BODY)
    (tmp_path / ".file.bin.part.version").write_text('"one"')
    server.drops = [0]
    download(Remote(server.url(), "file.bin", SUM), tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == BODY and server.asked == ["bytes=300000-"]


def test_another_content_is_refused_and_removed(server, tmp_path):
    server.body = BODY[:-1] + b"x"
    with pytest.raises(DataError, match=f"has SHA-256 .*should have {SUM}.*ask again") as caught:
        download(Remote(server.url(), "file.bin", SUM), tmp_path)
    assert hashlib.sha256(server.body).hexdigest() in str(caught.value) and server.url() in str(caught.value)
    assert list(tmp_path.iterdir()) == []


PAGE = b"\n<!DOCTYPE html><p>log in"


@pytest.mark.parametrize(
    ("body", "says"),
    [(PAGE, "web page"), (b"\xef\xbb\xbf<HTML>", "web page"), (b"version https://git-lfs.github.com/spec/v1\n", "LFS")],
)
def test_a_page_or_a_pointer_in_the_files_place_is_recognised(server, tmp_path, body, says):
    server.body = body
    with pytest.raises(DataError, match=says):
        download(Remote(server.url(), "file.bin"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_was_asked_for_is_taken(server, tmp_path):
    server.body = PAGE
    download(Remote(server.url(), "read.HTML"), tmp_path)
    assert (tmp_path / "read.HTML").read_bytes() == PAGE


@pytest.mark.parametrize(("status", "times"), [(404, 1), (403, 1), (503, 5), (429, 5)])
def test_a_refusal_is_not_asked_about_again_and_a_passing_trouble_is(server, tmp_path, status, times):
    server.status = status
    with pytest.raises(DataError, match=str(status)):
        download(Remote(server.url(), "file.bin"), tmp_path)
    assert len(server.asked) == times


def test_no_server_at_all_is_said_so(tmp_path, pauses):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/file.bin"
        with pytest.raises(DataError, match="Connection refused; see that this machine is online") as caught:
            download(Remote(url, "file.bin"), tmp_path)
    assert url in str(caught.value) and pauses == [1.0, 3.0, 10.0, 30.0]


def test_a_line_that_dies_while_reading_is_the_networks_fault_and_not_the_disks(server, tmp_path, monkeypatch):
    class Dead(io.BytesIO):
        headers, status = {"Content-Length": "9"}, 200

        def read(self, size=-1):
            raise OSError(errno.EHOSTUNREACH, "No route to host")

    monkeypatch.setattr(urllib.request, "urlopen", lambda *given, **options: Dead())
    with pytest.raises(DataError, match="No route to host"):
        download(Remote(server.url(), "file.bin"), tmp_path)


def test_a_local_file_is_copied_and_one_that_is_not_there_is_said_at_once(tmp_path, pauses):
    (tmp_path / "from").write_bytes(BODY)
    download(Remote((tmp_path / "from").as_uri(), "to", SUM), tmp_path)
    assert (tmp_path / "to").read_bytes() == BODY
    with pytest.raises(DataError, match="No such file"):
        download(Remote((tmp_path / "nothing").as_uri(), "other"), tmp_path)
    assert not pauses


def test_a_folder_that_cannot_be_made_is_named(server, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StoreError, match="taken"):
        download(Remote(server.url(), "taken/file.bin"), tmp_path)


def test_a_full_disk_is_named(server, tmp_path):
    (tmp_path / ".file.bin.part").symlink_to("/dev/full")
    with pytest.raises(StoreError, match=r"file\.bin: cannot be written \(No space left on device\)"):
        download(Remote(server.url(), "file.bin"), tmp_path)


def zipped(name):
    page = io.BytesIO()
    with zipfile.ZipFile(page, "w") as archive:
        archive.writestr(name, b"content")
    return page.getvalue()


def test_an_archive_is_unpacked_once_and_its_space_given_back(server, tmp_path):
    server.body = zipped("a/one.txt")
    remote = Remote(server.url("data.zip"), "data.zip", unpack="inside")
    assert download(remote, tmp_path) == tmp_path / "inside"
    assert (tmp_path / "inside/a/one.txt").read_bytes() == b"content"
    assert sorted(os.listdir(tmp_path)) == [".data.zip.unpacked", "inside"]
    assert download(remote, tmp_path) == tmp_path / "inside"
    assert len(server.asked) == 1


def test_another_version_of_an_archive_is_unpacked_again(server, tmp_path):
    server.body = zipped("old.txt")
    download(Remote(server.url(), "data.zip", unpack="."), tmp_path)
    server.body = zipped("new.txt")
    pinned = hashlib.sha256(server.body).hexdigest()
    download(Remote(server.url(), "data.zip", pinned, unpack="."), tmp_path)
    assert (tmp_path / "new.txt").exists() and pinned in (tmp_path / ".data.zip.unpacked").read_text()
    (tmp_path / "new.txt").unlink()
    download(Remote(server.url(), "data.zip", pinned, unpack="."), tmp_path)
    assert len(server.asked) == 2


def test_an_archive_that_was_cut_short_at_its_source_is_kept_and_named(server, tmp_path):
    server.body = zipped("one.txt")[:-5]
    with pytest.raises(DataError, match="data.zip: cannot be unpacked"):
        download(Remote(server.url(), "data.zip", unpack="inside"), tmp_path)
    assert os.listdir(tmp_path) == ["data.zip"]
