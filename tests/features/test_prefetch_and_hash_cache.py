"""Sources come out in order and bounded, whatever threads do; a file's content is known again, and a change seen."""

import hashlib
import os
import threading
import time

import pytest

from carrara.core.errors import AudioError
from carrara.features.hash_cache import FileHashCache
from carrara.features.prefetch import prefetch


def test_sources_come_out_in_order_each_with_its_end():
    def source(place, count):
        def items():
            for item in range(count):
                time.sleep(0.001 * (place % 3))
                yield (place, item)
            if place == 2:
                raise AudioError("broken")

        return items

    found = list(prefetch([source(place, place) for place in range(7)], workers=3, depth=2))
    for place in range(7):
        mine = [item for owner, item in found if owner == place]
        assert mine[:-1] == [(place, item) for item in range(place)]
        assert str(mine[-1]) == ("broken" if place == 2 else "None")
    assert [owner for owner, _ in found] == sorted(owner for owner, _ in found)


def test_only_so_much_is_read_ahead_and_threads_end_with_the_reader():
    made = []

    def source():
        for item in range(1000):
            made.append(item)
            yield item

    before = threading.active_count()
    stream = prefetch([source] * 5, workers=2, depth=3)
    assert next(stream) == (0, 0)
    time.sleep(0.3)
    assert len(made) <= 2 * (3 + 2) + 1
    stream.close()
    assert threading.active_count() == before


def test_a_mistake_in_a_source_is_raised():
    def source():
        yield 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(prefetch([source], workers=1, depth=2))


def test_contents_are_read_once_and_changes_are_seen(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    path.write_bytes(b"one")
    old = time.time() - 100
    os.utime(path, (old, old))
    reads = []

    def counted(file):
        reads.append(file)
        return hashlib.sha256(file.read_bytes()).hexdigest()

    monkeypatch.setattr("carrara.features.hash_cache.file_identity", counted)
    monkeypatch.setattr("carrara.features.hash_cache.RACY_SECONDS", -1)
    contents = FileHashCache(tmp_path)
    assert contents.sha256(path) == contents.sha256(path) == hashlib.sha256(b"one").hexdigest()
    assert len(reads) == 1
    assert FileHashCache(tmp_path).sha256(path) == hashlib.sha256(b"one").hexdigest()
    assert len(reads) == 1
    stamp = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert contents.sha256(path) == hashlib.sha256(b"two").hexdigest()


def test_a_file_just_written_is_not_trusted_to_stay(tmp_path):
    path = tmp_path / "a.bin"
    contents = FileHashCache(tmp_path)
    for text in (b"one", b"two", b"six"):
        path.write_bytes(text)
        assert contents.sha256(path) == hashlib.sha256(text).hexdigest()


def test_without_a_place_to_remember_files_are_read(tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "a.bin"
    path.write_bytes(b"one")
    assert FileHashCache(tmp_path / "file").sha256(path) == hashlib.sha256(b"one").hexdigest()
    with pytest.raises(AudioError, match="no such file"):
        FileHashCache(tmp_path).sha256(tmp_path / "none")
    with pytest.raises(AudioError, match="a folder"):
        FileHashCache(tmp_path).sha256(tmp_path)
