"""The store gives back what it was given, by name, whatever happened in between; whole files agree with their crops."""

import json

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carrara.core.errors import StoreError, UsageError
from carrara.formats.weights import read_tensors
from carrara.pretrain.corpus.label_store import LabelStore, fill, of_batch, stores
from carrara.pretrain.corpus.stream import Stream, find
from carrara.pretrain.recipes._base import resolve
from carrara.pretrain.run import pretrain
from carrara.pretrain.targets import REGISTRY
from carrara.pretrain.targets._base import FrameGrid

GRID = FrameGrid(16_000, 320, 200)


def opened(folder, books=3, made_by="x"):
    return LabelStore(folder / "labels", books, made_by)


def some(frames, books=3, seed=0):
    return np.random.default_rng(seed).integers(32_768, size=(frames, books))


def test_rows_come_back_by_name_and_after_reopening(tmp_path):
    store = opened(tmp_path)
    kept = {f"{name}/ü.flac": some(frames, seed=frames) for name, frames in (("a", 5), ("b", 0), ("c", 70))}
    for name, codes in kept.items():
        store.append(name, codes)
        np.testing.assert_array_equal(store.rows(name, 0, 100), codes)
    store.close()
    store = opened(tmp_path)
    assert len(store) == 3
    for name, codes in kept.items():
        assert name in store
        np.testing.assert_array_equal(store.rows(name, 2, 3), codes[2:5])
    rows = store.rows("c/ü.flac", 68, 10)
    assert rows.shape == (2, 3)
    assert rows.dtype == np.int16
    with pytest.raises(ValueError, match="read-only"):
        rows[0] = 0
    store.append("d", some(4))
    np.testing.assert_array_equal(store.rows("d", 0, 4), some(4))


def test_a_code_takes_two_bytes(tmp_path):
    store = opened(tmp_path, books=8)
    store.append("a", some(1000, books=8))
    assert (tmp_path / "labels" / "codes.int16").stat().st_size == 1000 * 8 * 2
    # The docstring's cost: 160,000 hours at 75 frames a second.
    assert 160_000 * 3600 * 75 * 8 * 2 == 691_200_000_000


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lost_codes=st.integers(0, 80), lost_index=st.integers(0, 120))
def test_whatever_a_killed_process_left_is_cut_off_and_filling_goes_on(tmp_path_factory, lost_codes, lost_index):
    folder = tmp_path_factory.mktemp("store")
    store = opened(folder)
    for number in range(4):
        store.append(str(number), some(6, seed=number))
    store.close()
    for name, lost in (("codes.int16", lost_codes), ("index.jsonl", lost_index)):
        path = folder / "labels" / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size - lost])
    again = opened(folder)
    # 36 bytes an item: what remains are the first whole ones, in order.
    assert len(again) <= (4 * 36 - lost_codes) // 36
    assert len(again) >= 4 - max(-(-lost_codes // 36), -(-lost_index // 30))
    for number in range(4):
        if str(number) not in again:
            again.append(str(number), some(6, seed=number))
    again.close()
    last = opened(folder)
    for number in range(4):
        np.testing.assert_array_equal(last.rows(str(number), 0, 6), some(6, seed=number))
    assert (folder / "labels" / "codes.int16").stat().st_size == 4 * 36


def test_rows_without_a_line_are_written_over(tmp_path):
    store = opened(tmp_path)
    store.append("a", some(5))
    store.close()
    with open(tmp_path / "labels" / "codes.int16", "ab") as file:
        file.write(b"\x01" * 17)
    store = opened(tmp_path)
    store.append("b", some(3, seed=1))
    np.testing.assert_array_equal(store.rows("b", 0, 3), some(3, seed=1))


def test_what_does_not_fit_is_refused(tmp_path):
    store = opened(tmp_path)
    store.append("a", some(5))
    with pytest.raises(UsageError, match="has codes of a already"):
        store.append("a", some(5))
    with pytest.raises(UsageError, match=r"wanted \(frames, 3\)"):
        store.append("b", some(5, books=2))
    for bad in (-1, 32_768):
        with pytest.raises(UsageError, match="holds 0 to 32767"):
            store.append("b", np.full((2, 3), bad))
    with pytest.raises(StoreError, match="no codes of b"):
        store.rows("b", 0, 1)
    store.close()
    for other in ({"books": 2}, {"made_by": "y"}):
        with pytest.raises(StoreError, match="holds codes of something else"):
            opened(tmp_path, **other)
    index = tmp_path / "labels" / "index.jsonl"
    index.write_text(index.read_text().replace('{"id"', '{"id'))
    with pytest.raises(StoreError, match="line 2 is damaged"):
        opened(tmp_path)


@pytest.fixture(scope="module")
def filled(tmp_path_factory, corpus):
    target = REGISTRY.get("codes")(REGISTRY.get("codes").kind(source="random-projection", books=2, size=16), GRID)
    found = find([corpus], 16_000, 16_000)
    stream = Stream(found, 16_000, 320, 4, 7)
    target.fit((stream.at(step).samples_BT for step in range(2)), 0)
    store = LabelStore(tmp_path_factory.mktemp("filled"), 2, "x")
    return target, stream, store, fill(store, target, found, torch.device("cpu"))


def test_whole_files_cropped_agree_with_crops_away_from_their_edges(filled):
    target, stream, store, left_out = filled
    assert left_out == []
    assert len(store) == len(stream.corpus.items)
    for step in (0, 1, 5):
        batch = stream.at(step)
        kept, crops = of_batch(store, target, batch, stream, 49), target.labels(batch.samples_BT, 49)
        assert kept.shape == crops.shape == (4, 49, 2)
        assert kept.dtype == torch.int64
        # A window of 2048 samples reaches four frames over a crop's edges.
        assert (kept[:, 5:-5] == crops[:, 5:-5]).double().mean() > 0.99
        assert (kept[:, 6:-4] == crops[:, 5:-5]).double().mean() < 0.9


def test_filling_goes_on_where_it_stopped_and_leaves_out_what_cannot_be_read(filled, tmp_path, monkeypatch):
    import carrara.pretrain.corpus.label_store as label_store
    from carrara.core.errors import AudioError

    target, stream, whole, _ = filled
    store, read, heard = LabelStore(tmp_path, 2, "x"), label_store._whole, []

    def listen(item, rate):
        heard.append(item.id)
        if len(heard) == 4:
            raise KeyboardInterrupt
        if item.id == stream.corpus.items[6].id:
            raise AudioError(f"{item.path}: broken")
        return read(item, rate)

    monkeypatch.setattr(label_store, "_whole", listen)
    with pytest.raises(KeyboardInterrupt):
        fill(store, target, stream.corpus, torch.device("cpu"))
    store.close()
    store = LabelStore(tmp_path, 2, "x")
    left_out = fill(store, target, stream.corpus, torch.device("cpu"))
    assert len(left_out) == 1
    assert left_out[0].endswith("broken")
    assert sorted(heard) == sorted([item.id for item in map(stream.corpus.items.__getitem__, range(10))] + [heard[3]])
    lines = [json.loads(line) for line in (tmp_path / "index.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines[1:]] == [stream.corpus.items[at].id for at in range(10) if at != 6]
    for line in lines[1:]:
        np.testing.assert_array_equal(store.rows(line["id"], 0, 999), whole.rows(line["id"], 0, 999))


def test_an_item_that_was_left_out_is_labelled_by_its_crop(filled, tmp_path):
    target, stream, whole, _ = filled
    batch, store = stream.at(0), LabelStore(tmp_path, 2, "x")
    kept = stream.corpus.items[batch.items[1]].id
    store.append(kept, whole.rows(kept, 0, 999))
    found = of_batch(store, target, batch, stream, 49)
    crops, stored = target.labels(batch.samples_BT, 49), of_batch(whole, target, batch, stream, 49)
    assert torch.equal(found[[0, 2, 3]], crops[[0, 2, 3]])
    assert torch.equal(found[1], stored[1])


def test_only_targets_that_are_told_to_get_a_store_and_keep_it(filled, tmp_path, monkeypatch):
    import carrara.pretrain.corpus.label_store as label_store

    crops_only, stream, whole, _ = filled
    told = type(crops_only)(crops_only.settings.model_copy(update={"whole_files": True}), GRID)
    told.load_state_dict(crops_only.state_dict())
    both = {"crops": crops_only, "files": told}
    made = stores(tmp_path, both, stream.corpus, torch.device("cpu"))
    assert list(made) == ["files"]
    name = stream.corpus.items[3].id
    np.testing.assert_array_equal(made["files"].rows(name, 0, 999), whole.rows(name, 0, 999))
    made["files"].close()
    monkeypatch.setattr(label_store, "_whole", None)
    assert len(stores(tmp_path, both, stream.corpus, torch.device("cpu"))["files"]) == 10
    told.source.mean_D += 1
    with pytest.raises(StoreError, match="holds codes of something else"):
        stores(tmp_path, both, stream.corpus, torch.device("cpu"))


def test_a_run_learns_from_labels_of_whole_files_and_goes_on_with_them(corpus, tmp_path):
    changes = {
        "network.conv_channels": 16, "network.dim": 32, "network.num_layers": 1, "network.num_heads": 2,
        "network.ffn_dim": 32, "network.position_groups": 4, "targets.codes.num_codebooks": 2, "targets.codes.codebook_size": 8,
        "targets.codes.fraction": 1.0, "targets.codes.whole_files": True, "crop_seconds": 1.0, "batch": 4,
        "mixup.probability": 0.0, "steps": 4, "checkpoint_every": 2, "accumulation_steps": 2,
    }  # fmt: skip
    whole = pretrain(resolve("mert-v1-95m", "tiny", changes), corpus, tmp_path / "whole", device="cpu")
    assert (tmp_path / "whole/labels/codes").is_dir()
    stopped = resolve("mert-v1-95m", "tiny", changes)
    pretrain(stopped, corpus, tmp_path / "again", device="cpu")
    assert pretrain(stopped, corpus, tmp_path / "again", device="cpu", resume=True) == tmp_path / "again"
    one, other = (read_tensors(folder / "model.safetensors") for folder in (whole, tmp_path / "again"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    crops = resolve("mert-v1-95m", "tiny", changes | {"targets.codes.whole_files": False})
    by_crop = read_tensors(pretrain(crops, corpus, tmp_path / "crops", device="cpu") / "model.safetensors")
    assert not all(torch.equal(one[name], by_crop[name]) for name in one), "labels near a crop's edges differ"
