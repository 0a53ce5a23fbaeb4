"""Tar shards, local or in fsspec's memory, hold the files they were made of; damage is reported."""

import io
import json
import os
import tarfile

import fsspec
import hypothesis
import numpy as np
import pyarrow
import pytest
import soundfile
import torch
from hypothesis import strategies
from pyarrow import parquet

from carrara.audio.decode import load_audio
from carrara.core.errors import AudioError, DataError, UsageError
from carrara.pretrain.corpus.build import build_corpus
from carrara.pretrain.corpus.stream import CropStream
from carrara.pretrain.corpus.tar_shards import read_shard

RATE, CROP = 16_000, 16_000


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))


def items_by_name(corpus):
    """Return the items of a corpus by the last part of their names, each decoded from its own path."""
    return {item.id.rpartition("/")[2]: item for item in map(corpus.items.__getitem__, range(len(corpus.items)))}


def crops(stream, steps):
    """Return the crops of some steps by (epoch, name of the item)."""
    crops = {}
    for batch in stream.iter_batches(0, steps):
        assert not batch.errors
        for samples, epoch, item in zip(batch.samples_BT, batch.epochs, batch.item_indices):
            crops[epoch, stream.corpus.items[item].id.rpartition("/")[2]] = (item, samples.numpy())
    return crops


def pack(path, files, notes=None, kind=tarfile.PAX_FORMAT):
    """Write a tar of files, each with the JSON that `notes` holds for its name."""
    with tarfile.open(path, "w", format=kind) as tar:
        for file in files:
            tar.add(file, file.name)
            if notes and file.name in notes:
                content = json.dumps(notes[file.name]).encode()
                info = tarfile.TarInfo(file.with_suffix(".json").name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def shards(tmp_path, corpus):
    """Five shards of two sounds."""
    files = sorted(corpus.rglob("*.flac"), key=lambda path: int(path.stem))
    (tmp_path / "shards").mkdir()
    for number in range(5):
        pack(tmp_path / "shards" / f"{number:06d}.tar", files[2 * number : 2 * number + 2])
    return tmp_path / "shards"


def in_memory(folder, name):
    """Copy a folder to fsspec's memory and return its address."""
    files = fsspec.filesystem("memory")
    for path in folder.rglob("*"):
        if path.is_file():
            files.pipe_file(f"/{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())
    return f"memory://{name}"


def test_shards_hold_the_sounds_of_the_folder(corpus, shards):
    whole = {item.id.rpartition("/")[2]: item for item in items_by_name(build_corpus([corpus], RATE, CROP)).values()}
    for given in ([shards], [f"{shards}/{{000000..000004}}.tar"], sorted(shards.glob("*.tar"))):
        built = build_corpus(given, RATE, CROP)
        assert [built.items[n].id for n in (0, 9)] == ["000000.tar/0.flac", "000004.tar/9.flac"]
        assert {name: item.samples for name, item in items_by_name(built).items()} == {
            name: item.samples for name, item in whole.items()
        }
    stream = CropStream(built, CROP, 320, 5, 0)
    for (epoch, name), (item, samples) in crops(stream, 4).items():
        start = stream.crop_start(epoch, item)
        np.testing.assert_array_equal(samples, load_audio(whole[name].path, RATE)[start : start + CROP])


def test_remote_shards_folders_and_manifests_equal_local_ones(tmp_path, corpus, shards):
    here = build_corpus([shards], RATE, CROP)
    local = CropStream(here, CROP, 320, 5, 0).read_batch(1)
    address = in_memory(shards, "remote-shards")
    for given in (address, f"{address}/{{000000..000004}}.tar", f"simplecache::{address}"):
        built = build_corpus([given], RATE, CROP)
        assert built.identity() == here.identity()
        assert torch.equal(CropStream(built, CROP, 320, 5, 0).read_batch(1).samples_BT, local.samples_BT)
    music = in_memory(corpus, "remote-music")
    loose, folder = build_corpus([music], RATE, CROP), build_corpus([corpus], RATE, CROP)
    assert loose.identity() == folder.identity()
    rows = pyarrow.table({"path": ["0/0.flac", f"{music}/1/1.flac"], "seconds": [2.0, 2.2]})
    parquet.write_table(rows, tmp_path / "manifest.parquet")
    fsspec.filesystem("memory").put_file(str(tmp_path / "manifest.parquet"), "/remote-music/list.parquet")
    batch = CropStream(build_corpus([f"{music}/list.parquet"], RATE, CROP), CROP, 320, 2, 0).read_batch(0)
    assert len(batch.item_indices) == 2
    fsspec.filesystem("memory").rm("/remote-music/0/0.flac")
    assert (
        "memory://remote-music/0/0.flac: cannot be read: no such file"
        in CropStream(loose, CROP, 320, 10, 0).read_batch(0).errors
    )


def test_an_index_is_made_once_and_again_if_the_shard_changes(tmp_path, corpus, shards):
    first = build_corpus([shards], RATE, CROP)
    indexes = sorted((tmp_path / "home" / "shards").iterdir())
    written = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in indexes]
    assert len(indexes) == 5
    assert build_corpus([shards], RATE, CROP).identity() == first.identity()
    assert [(path.stat().st_ino, path.stat().st_mtime_ns) for path in indexes] == written
    pack(shards / "000000.tar", [corpus / "0" / "0.flac"])
    os.utime(shards / "000000.tar", ns=(1, 1))
    assert len(build_corpus([shards], RATE, CROP).items) == 9
    for path in indexes:
        path.write_text(path.read_text()[:50])
    assert len(build_corpus([shards], RATE, CROP).items) == 9


def test_the_length_in_the_json_is_trusted(tmp_path, corpus):
    files = [corpus / "0" / "0.flac", corpus / "1" / "1.flac"]
    notes = {"0.flac": {"samples": 22_050, "sample_rate": 22_050, "title": "x"}, "1.flac": {"title": "y"}}
    built = build_corpus([pack(tmp_path / "a.tar", files, notes)], RATE, CROP)
    assert {name: item.samples for name, item in items_by_name(built).items()} == {"0.flac": 16_000, "1.flac": 35_200}
    assert built.trusted == 1


def test_a_shard_cut_short_loses_no_more_than_its_end(tmp_path, corpus):
    files = [corpus / f"{number % 3}" / f"{number}.flac" for number in range(4)]
    whole = pack(tmp_path / "a.tar", files).read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        third = tar.getmembers()[2]
    cuts = {third.offset_data + 1000: "within 2.flac", third.offset: "after 1.flac", third.offset + 100: "after 1.flac"}
    for number, (cut, where) in enumerate(cuts.items()):
        path = tmp_path / f"cut{number}.tar"
        path.write_bytes(whole[:cut])
        with pytest.warns(UserWarning, match="left out"):
            built = build_corpus([path], RATE, CROP)
        assert set(items_by_name(built)) == {"0.flac", "1.flac"}
        (line,) = built.unreadable
        assert line.startswith(f"{path}: ")
        assert f"truncated at byte {cut}, {where}" in line or f"damaged from byte {third.offset} to its end" in line


@pytest.mark.parametrize("extended", [True, False])
def test_damage_within_a_shard_costs_the_members_it_covers(tmp_path, corpus, extended):
    files = [corpus / f"{number % 3}" / f"{number}.flac" for number in range(4)]
    kind = tarfile.PAX_FORMAT if extended else tarfile.GNU_FORMAT
    content = bytearray(pack(tmp_path / "a.tar", files, kind=kind).read_bytes())
    with tarfile.open(tmp_path / "a.tar") as tar:
        second, third = tar.getmembers()[1:3]
    assert (second.offset_data - second.offset > 512) == extended
    content[second.offset_data - 512 : second.offset_data - 200] = b"\xff" * 312
    content[third.offset_data : third.offset_data + third.size] = b"\x07" * third.size
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.warns(UserWarning, match="and 1 more"):
        built = build_corpus([tmp_path / "a.tar"], RATE, CROP)
    assert set(items_by_name(built)) == {"0.flac", "3.flac"}
    assert f"damaged from byte {second.offset} to {third.offset}" in built.unreadable[0]
    assert f"{tmp_path}/a.tar/2.flac: not an audio file" in built.unreadable[1]


@pytest.fixture(scope="module")
def tiny_tars(tmp_path_factory):
    """The bytes of two tars of six tiny sounds each, with extended heads and without, and where each stands."""
    folder, tars = tmp_path_factory.mktemp("tiny"), []
    for number in range(6):
        soundfile.write(folder / f"{number}.wav", np.full(100 + 300 * number, 0.1), RATE)
    for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        path = pack(folder / "tiny.tar", sorted(folder.glob("*.wav")), kind=kind)
        with tarfile.open(path) as tar:
            spans = [(info.name, info.offset, info.offset_data + info.size) for info in tar]
        tars.append((path.read_bytes(), spans))
    return tars


@hypothesis.settings(
    max_examples=60, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(
    which=strategies.integers(0, 1),
    begin=strategies.integers(0, 20_000),
    length=strategies.integers(1, 3000),
    cut=strategies.booleans(),
)
def test_wherever_the_damage_is_the_rest_is_used_and_a_loss_is_reported(tiny_tars, tmp_path, which, begin, length, cut):
    content, spans = tiny_tars[which]
    begin = begin % len(content)
    end = len(content) if cut else min(begin + length, len(content))
    path = tmp_path / "a.tar"
    path.write_bytes(content[:begin] + (b"" if cut else b"\xff" * (end - begin) + content[end:]))
    untouched = {name for name, first, last in spans if last <= begin or first >= end}
    try:
        index = read_shard(str(path))
    except AudioError as problem:
        assert not untouched
        assert "no member of a tar" in str(problem)
        return
    used = {each.name for each in index.members if each.seconds is not None}
    assert untouched <= used
    reports = [*index.damage, *(each.problem for each in index.members if each.problem)]
    assert all(line.startswith(str(path)) for line in reports)
    assert reports or used == {name for name, _, _ in spans}


def test_a_missing_or_invalid_tar_is_reported(tmp_path, corpus):
    good = pack(tmp_path / "good.tar", [corpus / "0" / "0.flac"])
    (tmp_path / "bad.tar").write_bytes(b"\x1f\x8b" + b"no tar at all" * 500)
    (tmp_path / "empty.tar").write_bytes(b"")
    with pytest.warns(UserWarning, match="left out"):
        built = build_corpus([good, tmp_path / "bad.tar", tmp_path / "empty.tar", "memory://nowhere/0.tar"], RATE, CROP)
    assert len(built.items) == 1
    reasons = ["no member of a tar in its", "no member of a tar in its", "cannot be read: no such f"]
    assert [line.partition(": ")[2][:25] for line in built.unreadable] == reasons
    with pytest.raises(UsageError, match="fsspec cannot open it"):
        build_corpus(["nothing://of/the.tar"], RATE, CROP)
    with pytest.raises(DataError, match="there is no such file or folder"):
        build_corpus([f"{tmp_path}/{{0..3}}.tar"], RATE, CROP)


def test_a_shard_truncated_later_is_reported_in_the_batch(tmp_path, corpus):
    path = pack(tmp_path / "a.tar", [corpus / "0" / "0.flac", corpus / "1" / "1.flac"])
    stream = CropStream(build_corpus([path], RATE, CROP), CROP, 320, 2, 0)
    path.write_bytes(path.read_bytes()[: stream.corpus.items[1].offset + 5])
    batch = stream.read_batch(0)
    assert len(batch.item_indices) == 1
    assert batch.errors[0].startswith("a.tar/1.flac: cannot be read")


def test_an_epoch_mixes_the_items_of_few_shards_at_a_time(tmp_path, shards, monkeypatch):
    monkeypatch.setattr("carrara.pretrain.corpus.stream.MIXED_SHARDS", 2)
    stream = CropStream(build_corpus([shards], RATE, CROP), CROP, 320, 2, 0)
    orders = []
    for epoch in range(6):
        items = [item for step in range(5 * epoch, 5 * epoch + 5) for _, item in stream.crop_order(step, 0, 1)]
        assert sorted(items) == list(range(10))
        groups = [{item // 2 for item in items[begin : begin + 4]} for begin in (0, 4, 8)]
        assert [len(group) for group in groups] == [2, 2, 1]
        orders.append(tuple(items))
    assert len(set(orders)) == 6
    mixed = [order for order in orders if len({item // 2 for item in order[:2]}) == 2]
    assert mixed, "the two shards of a group are read one after the other"


def test_loose_files_beside_shards_are_shards_of_one(tmp_path, corpus, shards):
    built = build_corpus([corpus / "0", shards], RATE, CROP)
    assert sorted(built.shard_sizes().tolist()) == [1] * 4 + [2] * 5
    assert build_corpus([corpus], RATE, CROP).shard_sizes().tolist() == [1] * 10
