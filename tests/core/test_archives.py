"""Archives that are complete, cut short, stopped midway or built to leave their folder."""

import gzip
import io
import os
import signal
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carrara.core.archives import unpack
from carrara.core.download import concatenate_files
from carrara.core.errors import DataError, StoreError

NOISE = np.random.default_rng(1).bytes
FILES = {"a/one.bin": NOISE(20_000), "a/b/two é.bin": NOISE(9_000), "Artist: Song.txt": b"", "four.bin": NOISE(20_000)}


def zipped(members, packing=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packing) as archive:
        for member, body in members.items():
            archive.writestr(member, body)
    return buffer.getvalue()


def tarred(members, kind="w:gz"):
    """Return a tar; a member that is a `TarInfo` is written as it is, without content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=kind) as archive:
        for name, body in members.items():
            if isinstance(body, tarfile.TarInfo):
                archive.addfile(body)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(body)
                archive.addfile(info, io.BytesIO(body))
    return buffer.getvalue()


def special(name, kind, to=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info


def zip_link(name, to):
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return {info: to}


PACKS = {
    "zip": zipped,
    "tar": lambda members: tarred(members, "w"),
    "tar.gz": tarred,
    "tar.bz2": lambda members: tarred(members, "w:bz2"),
    "tar.xz": lambda members: tarred(members, "w:xz"),
}
ARCHIVES = {kind: pack(FILES) for kind, pack in PACKS.items()}


def files_below(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", PACKS)
def test_every_member_is_unpacked_and_nothing_else(tmp_path, kind):
    (tmp_path / "archive").write_bytes(ARCHIVES[kind])
    unpack(tmp_path / "archive", tmp_path / "here")
    assert files_below(tmp_path / "here") == FILES


@pytest.mark.parametrize("kind", PACKS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fraction=st.floats(0, 0.999))
def test_an_archive_cut_short_leaves_complete_members_and_unpacking_continues(tmp_path_factory, kind, fraction):
    root, content = tmp_path_factory.mktemp("cut"), ARCHIVES[kind]
    (root / "archive").write_bytes(content[: int(fraction * len(content))])
    try:
        unpack(root / "archive", root / "here")
    except DataError as problem:
        assert "download" in str(problem) and str(root / "archive") in str(problem)
        assert files_below(root / "here").items() <= FILES.items()
    else:
        assert files_below(root / "here") == FILES  # only what follows the last member was cut
    (root / "archive").write_bytes(content)
    unpack(root / "archive", root / "here")
    assert files_below(root / "here") == FILES


@pytest.mark.parametrize("kind", PACKS)
def test_an_archive_cut_in_its_last_member_is_refused(tmp_path, kind):
    content = ARCHIVES[kind]
    (tmp_path / "archive").write_bytes(content[: content.index(FILES["four.bin"][:50]) if kind == "tar" else -9_000])
    with pytest.raises(DataError, match="cannot be unpacked"):
        unpack(tmp_path / "archive", tmp_path / "here")


def test_a_tar_cut_between_two_members_is_refused(tmp_path):
    (tmp_path / "archive").write_bytes(PACKS["tar"](FILES)[: 512 + 20_480])
    with pytest.raises(DataError, match="block of zeros"):
        unpack(tmp_path / "archive", tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_a_tar_with_a_damaged_header_midway_is_refused(tmp_path):
    content = bytearray(PACKS["tar"](FILES))
    content[512 + 20_480] ^= 255
    (tmp_path / "archive").write_bytes(content)
    with pytest.raises(DataError, match="block of zeros"):
        unpack(tmp_path / "archive", tmp_path / "here")
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.bz2", "tar.xz"])
def test_a_damaged_member_is_refused(tmp_path, kind):
    content = bytearray(zipped(FILES, zipfile.ZIP_STORED) if kind == "zip" else ARCHIVES[kind])
    content[len(content) // 2] ^= 255
    (tmp_path / "archive").write_bytes(content)
    with pytest.raises(DataError, match="cannot be unpacked"):
        unpack(tmp_path / "archive", tmp_path / "here")
    here = tmp_path / "here"
    assert not here.exists() or files_below(here).items() < FILES.items()


def test_an_encrypted_member_is_refused(tmp_path):
    content = bytearray(zipped({"a": b"1"}))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "archive").write_bytes(content)
    with pytest.raises(DataError, match="password"):
        unpack(tmp_path / "archive", tmp_path / "here")


@pytest.mark.parametrize("content", [b"", b"no archive at all" * 100, None])
def test_a_file_that_is_no_archive_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "archive").write_bytes(content)
    with pytest.raises(DataError, match=str(tmp_path / "archive")):
        unpack(tmp_path / "archive", tmp_path / "here")


def test_a_tar_that_ends_in_a_zip_is_a_tar(tmp_path):
    (tmp_path / "archive").write_bytes(tarred({"one": b"1", "inner.zip": zipped({"wrong": b"2"})}, "w"))
    unpack(tmp_path / "archive", tmp_path / "here")
    assert set(files_below(tmp_path / "here")) == {"one", "inner.zip"}


def test_backslashes_in_a_zip_separate_folders(tmp_path):
    (tmp_path / "archive").write_bytes(zipped({"a\\b\\c.txt": b"1"}))
    unpack(tmp_path / "archive", tmp_path / "here")
    assert files_below(tmp_path / "here") == {"a/b/c.txt": b"1"}


@pytest.mark.parametrize("kind", PACKS)
def test_existing_files_are_kept_if_their_content_is_the_members(tmp_path, kind):
    (tmp_path / "archive").write_bytes(ARCHIVES[kind])
    (tmp_path / "here/a/b").mkdir(parents=True)
    kept = tmp_path / "here/a/b/two é.bin"
    kept.write_bytes(FILES["a/b/two é.bin"])
    inode = kept.stat().st_ino
    (tmp_path / "here/a/one.bin").write_bytes(FILES["a/one.bin"][:-1] + b"x")
    (tmp_path / "here/four.bin").write_bytes(bytes(19_999))
    unpack(tmp_path / "archive", tmp_path / "here")
    assert files_below(tmp_path / "here") == FILES and kept.stat().st_ino == inode


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.bz2", "tar.xz"])
def test_an_archive_that_would_grow_a_hundred_times_is_refused_before_anything_is_written(tmp_path, kind):
    (tmp_path / "archive").write_bytes(PACKS[kind]({"good": b"1", "zeros": bytes(50_000_000)}))
    with pytest.raises(DataError, match="would grow to more than 10,000,000; nothing was unpacked"):
        unpack(tmp_path / "archive", tmp_path / "here")
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_of_megabytes_is_not_taken_into_memory(tmp_path, kind):
    """An archive of 2 kB whose header grows to 2 MB; one of 2 MB would take gigabytes of memory."""
    head = tarfile.TarInfo("x")
    head.type, head.size = kind, 2 * 2**20
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(head.tobuf() + bytes(2 * 2**20) + tarfile.TarInfo("a.txt").tobuf() + bytes(1024)))
    with pytest.raises(DataError, match=r"a\.tar\.gz: cannot be unpacked \(a header of 2,097,152 bytes\)"):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_flood_of_empty_members_and_a_tail_that_grows_are_refused(tmp_path):
    member = tarfile.TarInfo("x").tobuf()
    for name, content in {"members": member * 20_000 + bytes(1024), "tail": member + bytes(11 * 10**6)}.items():
        path = tmp_path / f"{name}.tar.gz"
        path.write_bytes(gzip.compress(content, 9))
        with pytest.raises(DataError, match=r"tar\.gz: its .* bytes would grow to more than 10,000,000"):
            unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_many_members_that_grow_together_are_refused(tmp_path):
    (tmp_path / "archive").write_bytes(zipped({f"{n}": bytes(2_000_000) for n in range(8)}))
    with pytest.raises(DataError, match="would grow"):
        unpack(tmp_path / "archive", tmp_path / "here")


def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(tmp_path):
    (tmp_path / "archive").write_bytes(ARCHIVES["zip"])
    (tmp_path / "here").mkdir()
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / "here/.archive.unpacking").symlink_to(tmp_path / "mine")
    unpack(tmp_path / "archive", tmp_path / "here")
    assert (tmp_path / "mine").read_bytes() == b"mine" and files_below(tmp_path / "here") == FILES


def test_a_killed_unpacking_leaves_complete_members_and_continues(tmp_path):
    (tmp_path / "archive").write_bytes(ARCHIVES["zip"])
    program = """
import os, signal, sys, zipfile
from pathlib import Path
from carrara.core.archives import unpack
read, calls = zipfile.ZipExtFile.read, []
def stop(self, n=-1):
    calls.append(n)
    if len(calls) == 4:  # the first member takes two, the second is in the temporary file then
        os.kill(os.getpid(), signal.SIGKILL)
    return read(self, n)
zipfile.ZipExtFile.read = stop
unpack(Path(sys.argv[1]), Path(sys.argv[2]))
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "archive", tmp_path / "here"], check=False)
    assert done.returncode == -signal.SIGKILL
    left = {name: body for name, body in files_below(tmp_path / "here").items() if name != ".archive.unpacking"}
    assert left == {"a/one.bin": FILES["a/one.bin"]}
    unpack(tmp_path / "archive", tmp_path / "here")
    assert files_below(tmp_path / "here") == FILES


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (zipped({"good": b"1", "../evil": b"2"}), "../evil"),
        (zipped({"good": b"1", "/tmp/evil": b"2"}), "/tmp/evil"),
        (zipped({"good": b"1", "a\\..\\..\\evil": b"2"}), "a/../../evil"),
        (zipped({"good": b"1", "C:\\evil": b"2"}), "C:/evil"),
        (zipped({"good": b"1", **zip_link("way", "/tmp")}), "way"),
        (tarred({"good": b"1", "a/../../evil": b"2"}), "a/../../evil"),
        (tarred({"good": b"1", "/evil": b"2"}), "/evil"),
        (tarred({"good": b"1", "way": special("way", tarfile.SYMTYPE, "/tmp")}), "way"),
        (tarred({"way": special("way", tarfile.SYMTYPE, ".."), "way/evil": b"2"}), "way"),
        (tarred({"good": b"1", "way": special("way", tarfile.LNKTYPE, "../evil")}), "way"),
        (tarred({"good": b"1", "disk": special("disk", tarfile.CHRTYPE)}), "disk"),
        (tarred({"good": b"1", "pipe": special("pipe", tarfile.FIFOTYPE)}), "pipe"),
    ],
)
def test_a_member_outside_of_the_folder_is_refused_before_anything_is_written(tmp_path, content, named):
    (tmp_path / "archive").write_bytes(content)
    with pytest.raises(DataError, match="outside|link|device") as caught:
        unpack(tmp_path / "archive", tmp_path / "here")
    assert repr(named) in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


def test_an_existing_link_in_the_folder_is_not_followed(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here/way").symlink_to(tmp_path)
    (tmp_path / "archive").write_bytes(zipped({"good": b"1", "way/evil": b"2"}))
    with pytest.raises(DataError, match="follows a link"):
        unpack(tmp_path / "archive", tmp_path / "here")
    assert not (tmp_path / "evil").exists() and not (tmp_path / "here/good").exists()


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "archive").write_bytes(ARCHIVES["zip"])
    (tmp_path / "here").mkdir()
    (tmp_path / "here/a").write_bytes(b"a file where the folder should be")
    with pytest.raises(StoreError, match="here/a/one.bin"):
        unpack(tmp_path / "archive", tmp_path / "here")
    assert os.listdir(tmp_path / "here") == ["a"]


@given(cuts=st.lists(st.integers(0, 60_000), max_size=4))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_parts_are_concatenated_in_order(tmp_path_factory, cuts):
    root, content = tmp_path_factory.mktemp("parts"), ARCHIVES["zip"]
    bounds = [0, *sorted(cuts), len(content)]
    parts = [root / f"mp3.zip.{number:03}" for number in range(1, len(bounds))]
    for part, low, high in zip(parts, bounds, bounds[1:]):
        part.write_bytes(content[low:high])
    assert concatenate_files(parts, root / "mp3.zip").read_bytes() == content


def test_a_missing_part_is_named_and_nothing_is_written(tmp_path):
    parts = [tmp_path / f"mp3.zip.00{number}" for number in (1, 2, 3)]
    parts[0].write_bytes(b"1")
    parts[2].write_bytes(b"3")
    with pytest.raises(DataError, match=r"mp3\.zip\.002: this part is missing"):
        concatenate_files(parts, tmp_path / "mp3.zip")
    assert not (tmp_path / "mp3.zip").exists()
