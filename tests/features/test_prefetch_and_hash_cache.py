"""Sources come out in order and bounded, whatever threads do; a file's hash is remembered, and a change noticed."""

import hashlib
import os
import sqlite3
import threading
import time
from contextlib import closing

import pytest

from carrara.core.errors import AudioError
from carrara.features.hash_cache import FileHashCache
from carrara.features.prefetch import prefetch


def test_sources_are_yielded_in_order_each_with_its_end():
    def source(index, count):
        def items():
            for item in range(count):
                time.sleep(0.001 * (index % 3))
                yield (index, item)
            if index == 2:
                raise AudioError("broken")

        return items

    pairs = list(prefetch([source(index, index) for index in range(7)], workers=3, depth=2))
    for index in range(7):
        own = [item for source_index, item in pairs if source_index == index]
        assert own[:-1] == [(index, item) for item in range(index)]
        assert str(own[-1]) == ("broken" if index == 2 else "None")
    assert [source_index for source_index, _ in pairs] == sorted(source_index for source_index, _ in pairs)


def wait_until_idle(done, least=1):
    """Wait until so much is done, and nothing more is within 0.3 s."""
    before = -1
    while len(done) < least or len(done) > before:
        before = len(done)
        time.sleep(0.3)


def test_prefetching_is_bounded_and_threads_end_with_the_reader():
    produced = []

    def source():
        for item in range(1000):
            produced.append(item)
            yield item

    before = threading.active_count()
    stream = prefetch([source] * 5, workers=2, depth=3)
    assert next(stream) == (0, 0)
    wait_until_idle(produced)
    assert len(produced) <= 2 * (3 + 2) + 1
    stream.close()
    assert threading.active_count() == before


def test_short_sources_are_read_ahead_by_weight_and_a_long_one_is_not_kept_from_its_room():
    produced = []

    def source(index, count):
        def items():
            for item in range(count):
                produced.append(index)
                yield item

        return items

    stream = prefetch([source(index, 3) for index in range(100)], workers=2, depth=20.0, weigh=lambda item: 2.0)
    with closing(stream):
        assert next(stream) == (0, 0)
        wait_until_idle(produced, 12)
        assert 12 <= len(produced) <= 15  # what was yielded, two of the first, ten after it, and one in each thread
    produced.clear()
    stream = prefetch([source(0, 1000), source(1, 1000)], workers=2, depth=10)
    with closing(stream):
        assert next(stream) == (0, 0)
        wait_until_idle(produced, 21)
        assert (11 <= produced.count(0) <= 12) and (10 <= produced.count(1) <= 11)


def test_sources_without_items_are_not_begun_without_end():
    begun = []

    def fail():
        begun.append(1)
        raise AudioError("broken")

    def sources():
        yield lambda: iter([1])
        yield from [fail] * 1000

    stream = prefetch(sources(), workers=2, depth=3)
    with closing(stream):
        assert next(stream) == (0, 1)
        wait_until_idle(begun)
        assert 0 < len(begun) < 100
        assert sum(isinstance(item, AudioError) for _, item in stream) == 1000


def test_an_error_of_the_list_of_sources_is_raised():
    def sources():
        yield lambda: iter([1])
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(prefetch(sources(), workers=2, depth=2))


def test_an_error_in_a_source_is_raised():
    def source():
        yield 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(prefetch([source], workers=1, depth=2))


def test_files_are_hashed_once_and_again_after_a_change(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"one")
    cache = FileHashCache(tmp_path, racy_seconds=-1)
    assert cache.sha256(path) == cache.sha256(path) == hashlib.sha256(b"one").hexdigest()
    # Another value in the database shows that the file is not read again.
    with closing(sqlite3.connect(tmp_path / "index" / "contents.sqlite")) as database:
        database.execute("update contents set digest = 'remembered'")
        database.commit()
    assert cache.sha256(path) == FileHashCache(tmp_path).sha256(path) == "remembered"
    times = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert cache.sha256(path) == hashlib.sha256(b"two").hexdigest()


def test_the_hash_of_a_file_just_written_is_not_cached(tmp_path):
    path = tmp_path / "a.bin"
    cache = FileHashCache(tmp_path)
    for text in (b"one", b"two", b"six"):
        path.write_bytes(text)
        assert cache.sha256(path) == hashlib.sha256(text).hexdigest()


def test_hashing_works_without_a_writable_database(tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "a.bin"
    path.write_bytes(b"one")
    assert FileHashCache(tmp_path / "file").sha256(path) == hashlib.sha256(b"one").hexdigest()
    with pytest.raises(AudioError, match="no such file"):
        FileHashCache(tmp_path).sha256(tmp_path / "none")
    with pytest.raises(AudioError, match="a folder"):
        FileHashCache(tmp_path).sha256(tmp_path)
