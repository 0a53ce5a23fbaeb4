"""Hashes of values and files, atomic writes, and folders that are not created by asking for them."""

import errno
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carrara.core import paths
from carrara.core.errors import StoreError
from carrara.core.hashing import canonical_json, sha256_of_file, sha256_of_json
from carrara.core.io import (
    DRAFT_PREFIX,
    atomic_write,
    draft_folder,
    hold_folder,
    remove_unheld,
    sweep_drafts,
    write_text,
)

trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(trees)
def test_hash_does_not_depend_on_key_order_and_survives_json(tree):
    assert sha256_of_json(json.loads(canonical_json(tree))) == sha256_of_json(tree)


def test_hash_is_sha256_of_canonical_json():
    assert sha256_of_json({"b": 1, "a": "é"}) == hashlib.sha256('{"a":"é","b":1}'.encode()).hexdigest()


def test_hash_refuses_nan():
    with pytest.raises(ValueError):
        sha256_of_json({"a": float("nan")})


def test_hash_of_a_file(tmp_path):
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert sha256_of_file(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path):
    path = tmp_path / "深い" / "record.json"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_write(path) as tmp:
        tmp.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["record.json"]


def test_a_full_disk_is_one_clear_error(tmp_path):
    path = tmp_path / "record.json"
    write_text(path, "old")
    with (
        pytest.raises(StoreError, match=r"record.json: cannot write here \(No space left on device\)"),
        atomic_write(path),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert path.read_text() == "old"


def test_an_unwritable_folder_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match="cannot write here"):
        write_text(tmp_path / "file" / "record.json", "x")


def test_a_link_stays_a_link_and_the_file_that_it_names_is_written(tmp_path):
    (tmp_path / "deep").mkdir()
    for name, target in [("there", "deep/a.md"), ("missing", "deep/b.md"), ("second", "there")]:
        (tmp_path / name).symlink_to(target)
    (tmp_path / "deep" / "a.md").write_text("old")
    for name, file in [("there", "a.md"), ("missing", "b.md"), ("second", "a.md")]:
        write_text(tmp_path / name, name)
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "deep" / file).read_text() == name
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.md", "b.md", "deep", "missing", "second", "there"]


def test_links_that_form_a_loop_and_folders_are_one_clear_error(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    for name, reason in [("loop", "symbolic links"), ("folder", "Is a directory")]:
        with pytest.raises(StoreError, match=f"{name}: cannot write here .*{reason}"):
            write_text(tmp_path / name, "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "loop"]


def test_a_pipe_is_written_through(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    received = []
    reader = threading.Thread(target=lambda: received.append(path.read_text()))
    reader.start()
    write_text(path, "x" * 200_000)
    reader.join(20)
    assert received == ["x" * 200_000]
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert list(tmp_path.iterdir()) == [path]


def test_a_device_is_written_through_and_never_replaced(tmp_path):
    device = tmp_path / "null"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        device.write_bytes(b"")
    except OSError:
        device = tmp_path / "link"
        device.symlink_to(os.devnull)
    write_text(device, "lost on purpose")
    assert stat.S_ISCHR(device.stat().st_mode)
    assert list(tmp_path.iterdir()) == [device]
    with pytest.raises(StoreError, match=r"/dev/full: cannot write here \(No space left"):
        write_text("/dev/full", "x")


def test_standard_output_is_written_through():
    code = "from pathlib import Path; from carrara.core.io import write_text; write_text(Path('/dev/stdout'), 'text')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "text"


DRAFTS = """
import os, sys, time
from pathlib import Path
from carrara.core.io import atomic_write, draft_folder
with atomic_write(Path(sys.argv[1]) / "model.safetensors") as tmp, draft_folder() as folder:
    for path in (tmp, folder / "features"):
        path.write_bytes(bytes(100_000))
    print(folder, flush=True)
    time.sleep(60)
"""


def test_a_draft_that_a_library_replaces_is_held_too(tmp_path):
    """safetensors writes another file and renames it, so that a lock on the draft itself would be lost."""
    sweep = "import sys; from carrara.core.io import sweep_drafts; print(sweep_drafts(sys.argv[1], recursive=True))"
    with atomic_write(tmp_path / "model.safetensors") as tmp:
        (tmp.parent / "other").write_bytes(b"whole")
        (tmp.parent / "other").replace(tmp)
        assert subprocess.run([sys.executable, "-c", sweep, tmp_path], capture_output=True, text=True).stdout == "0\n"
    assert (tmp_path / "model.safetensors").read_bytes() == b"whole"
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_drafts_are_swept_once_their_process_is_killed(tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / ".hidden").touch()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "own"))
    command = [sys.executable, "-c", DRAFTS, str(tmp_path / "run")]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert DRAFT_PREFIX in child.stdout.readline()
        assert sweep_drafts(tmp_path, recursive=True) == 0
        assert len(list(tmp_path.rglob(f"{DRAFT_PREFIX}*"))) == 2
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    write_text(tmp_path / "run" / "config.json", "the next run sweeps its folder")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]
    assert sweep_drafts(tmp_path, recursive=True) == 100_000
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".hidden", "config.json", "own", "run"]


def test_a_held_folder_stays_and_one_opened_again_is_another(tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / "rows").write_text("x")
    first, second = hold_folder(folder), hold_folder(folder)
    os.close(first)
    assert not remove_unheld(folder)
    assert (folder / "rows").exists()
    os.close(second)
    assert remove_unheld(folder)
    assert list(tmp_path.iterdir()) == []
    os.close(hold_folder(folder))
    assert list(folder.iterdir()) == []


def test_a_draft_folder_is_removed(tmp_path, monkeypatch):
    with draft_folder() as folder:
        (folder / "deep").mkdir()
    assert not folder.exists()


def test_homes_follow_their_variables_and_are_not_created(tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "here"))
    assert paths.features_home() == tmp_path / "here" / "features"
    monkeypatch.delenv("CARRARA_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert paths.home() == tmp_path / "xdg" / "carrara"
    monkeypatch.setenv("CARRARA_DATA", str(tmp_path / "data"))
    assert paths.data_home() == tmp_path / "data"
    assert list(tmp_path.iterdir()) == []
