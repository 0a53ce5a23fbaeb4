"""The store keeps what was committed and nothing else, whatever happens to the writer."""

import json
import os
import resource
import signal
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carrara.core.errors import StoreError
from carrara.features.store import FeatureStore

DIMS = {"0": 3, "1": 3, "cnn": 2}


def rows_of(seed, count):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(count, dim)).astype(np.float16) for name, dim in DIMS.items()}


def fill(folder, counts):
    store = FeatureStore(folder, DIMS, {"encoder": "x"})
    with store.writer() as writer:
        for seed, count in enumerate(counts):
            writer.append(rows_of(seed, count))
            writer.commit(f"item-{seed}")
    return store


def check(store, counts):
    assert list(store.items) == [f"item-{seed}" for seed in range(len(counts))]
    for seed, count in enumerate(counts):
        item = store.items[f"item-{seed}"]
        assert item.rows == count
        for name, truth in rows_of(seed, count).items():
            np.testing.assert_array_equal(store.layer(name)[item.offset : item.offset + count], truth)


def test_a_written_item_is_read_by_another_store_object(tmp_path):
    counts = [4, 0, 1, 7]
    check(fill(tmp_path / "s", counts), counts)
    check(FeatureStore(tmp_path / "s", DIMS, {"encoder": "x"}), counts)
    assert (tmp_path / "s" / "layer-1.f16").stat().st_size == 12 * 3 * 2


@settings(max_examples=40, deadline=None)
@given(log_cut=st.integers(0, 400), garbage=st.binary(max_size=50), extra=st.integers(0, 40), torn=st.booleans())
def test_incomplete_items_of_a_killed_writer_are_removed(tmp_path_factory, log_cut, garbage, extra, torn):
    folder = tmp_path_factory.mktemp("killed") / "s"
    counts = [2, 3, 1, 5]
    fill(folder, counts)
    log = folder / "items.jsonl"
    text = log.read_bytes()
    log.write_bytes(text[: len(text) - min(log_cut, len(text))] if torn else text + garbage.replace(b"\n", b" "))
    with open(folder / "layer-0.f16", "ab") as file:
        file.write(b"\x01" * extra)
    kept = log.read_bytes().count(b"\n")
    store = FeatureStore(folder, DIMS, {"encoder": "x"})
    check(store, counts[:kept])
    with store.writer() as writer:
        for seed in range(kept, len(counts)):
            writer.append(rows_of(seed, counts[seed]))
            writer.commit(f"item-{seed}")
    check(FeatureStore(folder, DIMS, {"encoder": "x"}), counts)
    assert all((folder / f"layer-{name}.f16").stat().st_size == 11 * dim * 2 for name, dim in DIMS.items())


def test_items_whose_rows_are_not_on_disk_are_dropped_from_the_log(tmp_path):
    fill(tmp_path / "s", [2, 3, 4])
    os.truncate(tmp_path / "s" / "layer-cnn.f16", 6 * 2 * 2)
    check(FeatureStore(tmp_path / "s", DIMS, {"encoder": "x"}), [2, 3])


def test_an_abandoned_item_leaves_nothing(tmp_path):
    store = fill(tmp_path / "s", [2])
    with store.writer() as writer:
        writer.append(rows_of(9, 5))
        writer.abandon()
        writer.append(rows_of(1, 1))
        writer.append(rows_of(8, 0))
        writer.commit("item-1")
        writer.append(rows_of(9, 5))
    check(store, [2, 1])
    check(FeatureStore(tmp_path / "s", DIMS, {"encoder": "x"}), [2, 1])


def test_one_writer_many_readers(tmp_path):
    store = fill(tmp_path / "s", [2])
    with store.writer() as writer:
        writer.append(rows_of(1, 2))
        check(FeatureStore(tmp_path / "s", DIMS, {"encoder": "x"}), [2])
        writer.commit("item-1")
        check(FeatureStore(tmp_path / "s", DIMS, {"encoder": "x"}), [2, 2])


def test_a_second_writer_waits_and_then_has_the_items_of_the_first(tmp_path):
    store, second = fill(tmp_path / "s", [2]), FeatureStore(tmp_path / "s", DIMS, {"encoder": "x"})
    seen = []

    def write():
        with second.writer():
            seen.append(set(second.items))

    with store.writer() as writer:
        thread = threading.Thread(target=write)
        thread.start()
        thread.join(0.3)
        assert seen == []
        writer.append(rows_of(1, 2))
        writer.commit("item-1")
    thread.join(20)
    assert seen == [set(store.items)] and len(store.items) == 2


def test_a_store_with_other_settings_is_refused_by_name(tmp_path):
    fill(tmp_path / "s", [1])
    with pytest.raises(StoreError, match="encoder was 'x', is 'y'"):
        FeatureStore(tmp_path / "s", DIMS, {"encoder": "y"})
    with pytest.raises(StoreError, match="dims"):
        FeatureStore(tmp_path / "s", {**DIMS, "2": 3}, {"encoder": "x"})
    (tmp_path / "s" / "meta.json").write_text("{")
    with pytest.raises(StoreError, match="cannot be read"):
        FeatureStore(tmp_path / "s", DIMS, {"encoder": "x"})


@pytest.mark.parametrize("line", ["nonsense", json.dumps({"key": "a", "offset": 7, "rows": 1}), "[]"])
def test_a_damaged_log_is_refused(tmp_path, line):
    fill(tmp_path / "s", [1, 1])
    log = tmp_path / "s" / "items.jsonl"
    first, second = log.read_text().splitlines()
    log.write_text(f"{first}\n{line}\n{second}\n")
    with pytest.raises(StoreError, match=r"items.jsonl"):
        FeatureStore(tmp_path / "s", DIMS, {"encoder": "x"})


def test_a_full_disk_loses_nothing(tmp_path):
    store = fill(tmp_path / "s", [2, 3])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with store.writer() as writer:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
            with pytest.raises(StoreError, match="cannot write here"):
                writer.append(rows_of(2, 5000))
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            writer.append(rows_of(2, 4))
            writer.commit("item-2")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    check(FeatureStore(tmp_path / "s", DIMS, {"encoder": "x"}), [2, 3, 4])
