"""Hashes of values and files, atomic writes, and folders that are not created by asking for them."""

import errno
import hashlib
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carrara.core import paths
from carrara.core.errors import StoreError
from carrara.core.hashing import canonical_json, sha256_of_file, sha256_of_json
from carrara.core.io import atomic_write, write_text

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


def test_homes_follow_their_variables_and_are_not_created(tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "here"))
    assert paths.features_home() == tmp_path / "here" / "features"
    monkeypatch.delenv("CARRARA_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert paths.home() == tmp_path / "xdg" / "carrara"
    monkeypatch.setenv("CARRARA_DATA", str(tmp_path / "data"))
    assert paths.data_home() == tmp_path / "data"
    assert list(tmp_path.iterdir()) == []
