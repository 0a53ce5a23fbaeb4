"""The store returns what was appended, by name, whatever happened in between; labels of files and crops agree."""

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carrara.core.errors import StoreError, UsageError
from carrara.encoders._frame_encoder import FrameGrid
from carrara.formats.weights import read_tensors
from carrara.pretrain.corpus.build import build_corpus
from carrara.pretrain.corpus.label_store import LabelStore, fill_label_store, open_label_stores, read_batch_labels
from carrara.pretrain.corpus.stream import CropStream
from carrara.pretrain.distributed import Dist
from carrara.pretrain.recipes._base import resolve
from carrara.pretrain.run import pretrain
from carrara.pretrain.targets import REGISTRY

GRID = FrameGrid(16_000, 320, 200)


def open_store(folder, num_codebooks=3, origin="x"):
    return LabelStore(folder / "labels", num_codebooks, origin)


def random_codes(frames, num_codebooks=3, seed=0):
    return np.random.default_rng(seed).integers(32_768, size=(frames, num_codebooks))


def test_rows_are_read_by_name_also_after_reopening(tmp_path):
    store = open_store(tmp_path)
    codes_by_name = {
        f"{name}/ü.flac": random_codes(frames, seed=frames) for name, frames in (("a", 5), ("b", 0), ("c", 70))
    }
    for name, codes in codes_by_name.items():
        store.append(name, codes)
        np.testing.assert_array_equal(store.read(name, 0, 100), codes)
    store.close()
    store = open_store(tmp_path)
    assert len(store) == 3
    for name, codes in codes_by_name.items():
        assert name in store
        np.testing.assert_array_equal(store.read(name, 2, 3), codes[2:5])
    rows = store.read("c/ü.flac", 68, 10)
    assert rows.shape == (2, 3)
    assert rows.dtype == np.int16
    with pytest.raises(ValueError, match="read-only"):
        rows[0] = 0
    store.append("d", random_codes(4))
    np.testing.assert_array_equal(store.read("d", 0, 4), random_codes(4))


def test_a_code_takes_two_bytes(tmp_path):
    store = open_store(tmp_path, num_codebooks=8)
    store.append("a", random_codes(1000, num_codebooks=8))
    assert (tmp_path / "labels" / "codes.int16").stat().st_size == 1000 * 8 * 2
    # The docstring's cost: 160,000 hours at 75 frames a second.
    assert 160_000 * 3600 * 75 * 8 * 2 == 691_200_000_000


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lost_codes=st.integers(0, 80), lost_index=st.integers(0, 120))
def test_what_a_killed_process_left_is_cut_off_and_filling_continues(tmp_path_factory, lost_codes, lost_index):
    folder = tmp_path_factory.mktemp("store")
    store = open_store(folder)
    for number in range(4):
        store.append(str(number), random_codes(6, seed=number))
    store.close()
    for name, lost in (("codes.int16", lost_codes), ("index.jsonl", lost_index)):
        path = folder / "labels" / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size - lost])
    again = open_store(folder)
    # 36 bytes an item: what remains are the first whole ones, in order.
    assert len(again) <= (4 * 36 - lost_codes) // 36
    assert len(again) >= 4 - max(-(-lost_codes // 36), -(-lost_index // 30))
    for number in range(4):
        if str(number) not in again:
            again.append(str(number), random_codes(6, seed=number))
    again.close()
    last = open_store(folder)
    for number in range(4):
        np.testing.assert_array_equal(last.read(str(number), 0, 6), random_codes(6, seed=number))
    assert (folder / "labels" / "codes.int16").stat().st_size == 4 * 36


def test_rows_without_a_line_are_written_over(tmp_path):
    store = open_store(tmp_path)
    store.append("a", random_codes(5))
    store.close()
    with open(tmp_path / "labels" / "codes.int16", "ab") as file:
        file.write(b"\x01" * 17)
    store = open_store(tmp_path)
    store.append("b", random_codes(3, seed=1))
    np.testing.assert_array_equal(store.read("b", 0, 3), random_codes(3, seed=1))


def test_codes_that_do_not_fit_are_refused(tmp_path):
    store = open_store(tmp_path)
    store.append("a", random_codes(5))
    with pytest.raises(UsageError, match="has codes of a already"):
        store.append("a", random_codes(5))
    with pytest.raises(UsageError, match=r"not \(frames, 3\)"):
        store.append("b", random_codes(5, num_codebooks=2))
    for bad in (-1, 32_768):
        with pytest.raises(UsageError, match="holds 0 to 32767"):
            store.append("b", np.full((2, 3), bad))
    with pytest.raises(StoreError, match="no codes of b"):
        store.read("b", 0, 1)
    store.close()
    for other in ({"num_codebooks": 2}, {"origin": "y"}):
        with pytest.raises(StoreError, match="holds codes of another corpus or target"):
            open_store(tmp_path, **other)
    index = tmp_path / "labels" / "index.jsonl"
    index.write_text(index.read_text().replace('{"id"', '{"id'))
    with pytest.raises(StoreError, match="line 2 is damaged"):
        open_store(tmp_path)


@pytest.fixture(scope="module")
def filled(tmp_path_factory, corpus):
    target = REGISTRY.get("codes")(
        REGISTRY.get("codes").settings_type(source="random-projection", num_codebooks=2, codebook_size=16), GRID
    )
    items = build_corpus([corpus], 16_000, 16_000)
    stream = CropStream(items, 16_000, 320, 4, 7)
    target.fit((stream.read_batch(step).samples_BT for step in range(2)), 0)
    store = LabelStore(tmp_path_factory.mktemp("filled"), 2, "x")
    return target, stream, store, fill_label_store(store, target, items)


def test_whole_files_cropped_agree_with_crops_away_from_their_edges(filled):
    target, stream, store, left_out = filled
    assert left_out == []
    assert len(store) == len(stream.corpus.items)
    for step in (0, 1, 5):
        batch = stream.read_batch(step)
        stored, crops = read_batch_labels(store, target, batch, stream, 49), target.labels(batch.samples_BT, 49)
        assert stored.shape == crops.shape == (4, 49, 2)
        assert stored.dtype == torch.int64
        # A window of 2048 samples reaches four frames over a crop's edges.
        assert (stored[:, 5:-5] == crops[:, 5:-5]).double().mean() > 0.99
        assert (stored[:, 6:-4] == crops[:, 5:-5]).double().mean() < 0.9


def test_filling_resumes_where_it_stopped_and_leaves_out_unreadable_items(filled, tmp_path):
    target, stream, complete, _ = filled
    folder = tmp_path / "corpus"
    for index in range(10):
        item = stream.corpus.items[index]
        (folder / item.id).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(item.path, folder / item.id)
    corpus = build_corpus([folder], 16_000, 16_000)
    (folder / corpus.items[6].id).write_bytes(b"broken")

    class Interrupted(type(target)):
        calls = 0

        def labels(self, samples_BT, frames):
            Interrupted.calls += 1
            if Interrupted.calls == 4:
                raise KeyboardInterrupt
            return super().labels(samples_BT, frames)

    interrupted = Interrupted(target.settings, GRID)
    interrupted.load_state_dict(target.state_dict())
    store = LabelStore(tmp_path / "labels", 2, "x")
    with pytest.raises(KeyboardInterrupt):
        fill_label_store(store, interrupted, corpus)
    store.close()
    store = LabelStore(tmp_path / "labels", 2, "x")
    (problem,) = fill_label_store(store, interrupted, corpus)
    assert corpus.items[6].id in problem
    # Ten items without the broken one; the one that was interrupted is labelled twice.
    assert Interrupted.calls == 10
    lines = [json.loads(line) for line in (tmp_path / "labels" / "index.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines[1:]] == [corpus.items[index].id for index in range(10) if index != 6]
    for line in lines[1:]:
        np.testing.assert_array_equal(store.read(line["id"], 0, 999), complete.read(line["id"], 0, 999))


def test_an_item_without_stored_labels_is_labelled_from_its_crop(filled, tmp_path):
    target, stream, whole, _ = filled
    batch, store = stream.read_batch(0), LabelStore(tmp_path, 2, "x")
    name = stream.corpus.items[batch.item_indices[1]].id
    store.append(name, whole.read(name, 0, 999))
    mixed = read_batch_labels(store, target, batch, stream, 49)
    crops, stored = target.labels(batch.samples_BT, 49), read_batch_labels(whole, target, batch, stream, 49)
    assert torch.equal(mixed[[0, 2, 3]], crops[[0, 2, 3]])
    assert torch.equal(mixed[1], stored[1])


def test_only_targets_with_whole_files_get_a_store_and_keep_it(filled, tmp_path):
    by_crop, stream, complete, _ = filled
    whole = type(by_crop)(by_crop.settings.model_copy(update={"whole_files": True}), GRID)
    whole.load_state_dict(by_crop.state_dict())
    targets = {"crops": by_crop, "files": whole}
    stores = open_label_stores(tmp_path, targets, stream.corpus)
    assert list(stores) == ["files"]
    name = stream.corpus.items[3].id
    np.testing.assert_array_equal(stores["files"].read(name, 0, 999), complete.read(name, 0, 999))
    stores["files"].close()

    class Unused(type(whole)):
        def labels(self, samples_BT, frames):
            raise AssertionError("labelled again")

    unused = Unused(whole.settings, GRID)
    unused.load_state_dict(whole.state_dict())
    assert len(open_label_stores(tmp_path, {"files": unused}, stream.corpus)["files"]) == 10
    whole.source.mean_D += 1
    with pytest.raises(StoreError, match="holds codes of another corpus or target"):
        open_label_stores(tmp_path, targets, stream.corpus)


@pytest.mark.slow
def test_a_run_learns_from_labels_of_whole_files_and_resumes_with_them(corpus, tmp_path):
    changes = {
        "network.conv_channels": 16, "network.dim": 32, "network.num_layers": 1, "network.num_heads": 2,
        "network.ffn_dim": 32, "network.position_groups": 4, "targets.codes.num_codebooks": 2,
        "targets.codes.codebook_size": 8,
        "targets.codes.fraction": 1.0, "targets.codes.whole_files": True, "crop_seconds": 1.0, "batch": 4,
        "mixup.probability": 0.0, "steps": 4, "checkpoint_every": 2, "accumulation_steps": 2,
    }  # fmt: skip
    whole = pretrain(resolve("mert-v1-95m", "tiny", changes), corpus, tmp_path / "whole", device="cpu")
    assert (tmp_path / "whole/labels/codes").is_dir()
    stopped = resolve("mert-v1-95m", "tiny", changes)
    pretrain(stopped, corpus, tmp_path / "again", device="cpu")
    assert pretrain(stopped, corpus, tmp_path / "again", device="cpu", resume=True) == tmp_path / "again"
    first, other = (read_tensors(folder / "model.safetensors") for folder in (whole, tmp_path / "again"))
    assert all(torch.equal(first[name], other[name]) for name in first)
    crops = resolve("mert-v1-95m", "tiny", changes | {"targets.codes.whole_files": False})
    by_crop = read_tensors(pretrain(crops, corpus, tmp_path / "crops", device="cpu") / "model.safetensors")
    assert not all(torch.equal(first[name], by_crop[name]) for name in first), "labels near a crop's edges differ"


def test_ranks_write_at_the_same_time_and_any_number_of_them_goes_on(filled, tmp_path):
    target, stream, complete, _ = filled
    corpus, ranks = stream.corpus, [Dist(rank, 2) for rank in range(2)]
    stores = [LabelStore(tmp_path, 2, "x", rank) for rank in range(2)]
    for store, dist in zip(stores, ranks):
        assert fill_label_store(store, target, corpus, dist) == []
    assert [len(store) for store in stores] == [5, 5]
    for store in stores:
        store.read_other_ranks()
        assert len(store) == 10
        for index in range(10):
            name = corpus.items[index].id
            np.testing.assert_array_equal(store.read(name, 3, 7), complete.read(name, 3, 7))
        store.close()
    # Rank 1 was killed while it wrote its last item: one process adds that item alone.
    codes = tmp_path / "codes-1.int16"
    codes.write_bytes(codes.read_bytes()[:-10])
    alone = LabelStore(tmp_path, 2, "x")
    assert len(alone) == 9
    size = (tmp_path / "codes.int16").stat().st_size
    assert fill_label_store(alone, target, corpus) == [] and len(alone) == 10
    assert (tmp_path / "codes.int16").stat().st_size > size
    with pytest.raises(StoreError, match="holds codes of another corpus or target"):
        LabelStore(tmp_path, 2, "y", 2)
