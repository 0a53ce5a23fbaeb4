"""Parquet with audio bytes, in Hugging Face datasets' layout, gives the crops of the files that were put in."""

import json
from typing import ClassVar

import fsspec
import numpy as np
import pyarrow
import pytest
import soundfile
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow import parquet

from carrara.core.errors import DataError
from carrara.core.settings import replace
from carrara.pretrain.corpus import parquet_shards
from carrara.pretrain.corpus.build import build_corpus
from carrara.pretrain.corpus.parquet_shards import read_parquet_tags
from carrara.pretrain.corpus.stream import CropStream
from carrara.pretrain.run import pretrain

RATE, CROP = 16_000, 16_000
AUDIO = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


class HubStandIn(MemoryFileSystem):
    """Stands for huggingface_hub's file system of hf:// addresses."""

    protocol = "hf"
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]


def write_rows(target, files, group=3, **columns):
    """Write files as rows of one Parquet file, a few to a row group, with further columns."""
    audio = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    table = pyarrow.table({"audio": pyarrow.array(audio, AUDIO), **columns})
    parquet.write_table(table, target, row_group_size=group)


@pytest.fixture
def files(corpus):
    return sorted(corpus.rglob("*.flac"))


def crops(built, steps=12):
    """Return crops by the number of the item and the start."""
    stream = CropStream(built, CROP, 320, 3, 5)
    return {
        (item, stream.crop_start(epoch, item)): crop.numpy()
        for batch in stream.iter_batches(0, steps)
        for crop, epoch, item in zip(batch.samples_BT, batch.epochs, batch.item_indices)
    }


def test_crops_are_those_of_the_files(tmp_path, files):
    data = tmp_path / "data"
    data.mkdir()
    write_rows(data / "train-00000-of-00002.parquet", files[:6])
    write_rows(data / "train-00001-of-00002.parquet", files[6:])
    parquet.write_table(pyarrow.table({"text": ["no audio"]}), data / "notes.parquet")
    built = build_corpus([tmp_path], RATE, CROP)
    assert [built.items[n].id for n in (0, 6)] == [
        "data/train-00000-of-00002.parquet/000000", "data/train-00001-of-00002.parquet/000000"
    ]  # fmt: skip
    assert [built.items[n].samples for n in range(10)] == [soundfile.info(file).frames for file in files]
    # Row groups of three, then what is left, count as shards.
    assert built.shard_sizes().tolist() == [3, 3, 3, 1]
    for (item, start), crop in crops(built).items():
        samples, _ = soundfile.read(files[item], dtype="float32", start=start, frames=CROP)
        np.testing.assert_array_equal(crop, samples)


def test_addresses_of_the_hub_and_others_are_read_through_fsspec(tmp_path, files, monkeypatch):
    write_rows(tmp_path / "local.parquet", files)
    content = (tmp_path / "local.parquet").read_bytes()
    fsspec.register_implementation("hf", HubStandIn, clobber=True)
    try:
        for folder in ("hf://datasets/lab/music/data", "memory://parquet-music"):
            files_of, path = fsspec.core.url_to_fs(folder)
            files_of.makedirs(path, exist_ok=True)
            files_of.pipe_file(f"{path}/train.parquet", content)
            built = build_corpus([folder], RATE, CROP)
            assert len(built.items) == 10
            ours, local = crops(built, 3), crops(build_corpus([tmp_path / "local.parquet"], RATE, CROP), 3)
            assert ours.keys() == local.keys() and all(np.array_equal(ours[key], local[key]) for key in ours)
    finally:
        fsspec.register_implementation("hf", "huggingface_hub.HfFileSystem", clobber=True)


def test_a_broken_row_is_left_out_and_counted(tmp_path, files):
    audio = [{"bytes": file.read_bytes(), "path": file.name} for file in files[:4]]
    audio[1]["bytes"], audio[2] = b"fLaC and no more", None
    parquet.write_table(pyarrow.table({"audio": pyarrow.array(audio, AUDIO)}), tmp_path / "x.parquet")
    with pytest.warns(UserWarning, match="x.parquet, row 2"):
        built = build_corpus([tmp_path / "x.parquet"], RATE, CROP)
    assert [built.items[n].row for n in range(len(built.items))] == [0, 3]
    assert len(built.unreadable) == 2 and "row 3: has no audio bytes" in built.unreadable[1]
    # Lengths that a column gives are trusted; the row then shows in training.
    trusted = pyarrow.table({"audio": pyarrow.array(audio, AUDIO), "duration": [2.0] * 4})
    parquet.write_table(trusted, tmp_path / "y.parquet")
    built = build_corpus([tmp_path / "y.parquet"], RATE, CROP)
    assert len(built.items) == built.trusted == 4
    batch = CropStream(built, CROP, 320, 4, 0).read_batch(0)
    assert sorted(batch.item_indices) == [0, 3] and len(batch.errors) == 2
    assert all("y.parquet, row" in error and "carrara-" not in error for error in batch.errors)


def test_memory_for_row_groups_is_bounded(tmp_path, files, monkeypatch):
    write_rows(tmp_path / "x.parquet", files, group=1)
    monkeypatch.setattr(parquet_shards, "CACHE_BYTES", 2 * max(file.stat().st_size for file in files))
    reads, read = [], parquet.ParquetFile.read_row_group

    def counting(self, group, **options):
        reads.append(group)
        return read(self, group, **options)

    monkeypatch.setattr(parquet.ParquetFile, "read_row_group", counting)
    built = build_corpus([tmp_path / "x.parquet"], RATE, CROP)
    for item in (0, 0, 1, 0, 1, 5, 6, 7, 0):
        built.items[item].load(RATE, 0.0, 1.0)
    assert reads[:2] == [0, 1] and reads[-1] == 0 and len(reads) == 6


def test_tags_are_strings_lists_or_named_classes(tmp_path, files):
    names = {"info": {"features": {"genre": {"names": ["jazz", "rock"], "_type": "ClassLabel"}}}}
    table = pyarrow.table(
        {"genre": [0, 1, None], "tags": [["a", "b"], [], ["b"]], "split": ["train", "valid", "train"]}
    )
    parquet.write_table(table.replace_schema_metadata({"huggingface": json.dumps(names)}), tmp_path / "x.parquet")
    assert read_parquet_tags(str(tmp_path / "x.parquet"), "genre") == (
        [["jazz"], ["rock"], []], ["train", "valid", "train"]
    )  # fmt: skip
    assert read_parquet_tags(str(tmp_path / "x.parquet"), "tags")[0] == [["a", "b"], [], ["b"]]
    with pytest.raises(DataError, match="has no column mood, only genre, tags, split; choose one with"):
        read_parquet_tags(str(tmp_path / "x.parquet"), "mood")


@pytest.mark.slow
def test_a_run_on_it_resumes_exactly(tmp_path, files, micro):
    write_rows(tmp_path / "music.parquet", files)
    recipe = replace(micro, {"steps": 4, "checkpoint_every": 2})
    whole, folder = (pretrain(recipe, tmp_path / "music.parquet", tmp_path / name, device="cpu") for name in "ab")
    last = folder / "training" / "last.safetensors"
    (folder / "training" / "previous.safetensors").replace(last)
    pretrain(recipe, tmp_path / "music.parquet", folder, device="cpu", resume=True)
    assert last.read_bytes()[-4000:] == (whole / "training" / "last.safetensors").read_bytes()[-4000:]
