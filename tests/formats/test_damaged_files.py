"""Files of every kind damaged at random, hundreds of times each: read, or refused in one line, and nothing else."""

import argparse
import collections
import functools
import io
import json
import random
import resource
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from carrara.core.errors import DataError, WeightsError
from carrara.encoders.clmr import CHECKPOINT_FILE, ENCODER
from carrara.formats.hdf5 import read_hdf5
from carrara.formats.keras import read_keras
from carrara.formats.onnx import read_onnx
from carrara.formats.safe_pickle import read_torch_checkpoint, verify_crc
from carrara.formats.tensorflow import read_tensorflow_checkpoint
from carrara.formats.weights import read_tensors, save_tensors

TENSORS = collections.OrderedDict(a=torch.randn(5), b=torch.ones(2, 3).half())
TRAINED = {"model": TENSORS, "args": argparse.Namespace(x=1), "n": [1, 2, (3,)], "kind": torch.float16}
TIMES = 250
SPARE = 4 * 2**30


@pytest.fixture(autouse=True)
def bounded_memory():
    """What would fill the machine fails here instead."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def pickled(content, zipped):
    def write(path):
        torch.save(content, path, _use_new_zipfile_serialization=zipped)

    return write


def hdf5(path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file["layers/dense/vars/0"] = np.ones((3, 2), "f4")
        file["layers/dense/vars/1"] = np.ones(2, "f4")


def keras(packing):
    def write(path):
        arrays = path.with_suffix(".h5")
        hdf5(arrays)
        calls = [{"args": [{"config": {"keras_history": ["in", 0, 0]}}], "kwargs": {}}]
        layers = [{"name": "in", "class_name": "InputLayer", "inbound_nodes": []}]
        layers += [{"name": "out", "class_name": "Dense", "inbound_nodes": calls}]
        with zipfile.ZipFile(path, "w", packing) as archive:
            archive.writestr("config.json", json.dumps({"class_name": "Functional", "config": {"layers": layers}}))
            archive.write(arrays, "model.weights.h5")

    return write


def onnx(path):
    package = pytest.importorskip("onnx")
    array = np.ones((2, 3), "f4")
    steps = [
        package.helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 2, 3, 4], auto_pad="VALID", alpha=0.5),
        package.helper.make_node("Identity", ["w"], ["again"]),
        package.helper.make_node("Constant", [], ["c"], value=package.numpy_helper.from_array(array)),
    ]
    constants = [package.numpy_helper.from_array(array, "w")]
    package.save(package.helper.make_model(package.helper.make_graph(steps, "g", [], [], constants)), path)


def release(path):
    inside = io.BytesIO()
    torch.save({f"encoder.sequential.{name}": tensor for name, tensor in TENSORS.items()}, inside)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"clmr/{CHECKPOINT_FILE}", inside.getvalue())


READERS = {
    "safetensors": (read_tensors, lambda path: save_tensors(TENSORS, path)),
    "table, zip": (read_tensors, pickled(TENSORS, True)),
    "table, older": (read_tensors, pickled(TENSORS, False)),
    "checkpoint, zip": (read_torch_checkpoint, pickled(TRAINED, True)),
    "checkpoint, older": (read_torch_checkpoint, pickled(TRAINED, False)),
    "mapped, older": (functools.partial(read_torch_checkpoint, memory_map=True), pickled(TRAINED, False)),
    "checksums": (verify_crc, pickled(TRAINED, True)),
    "onnx": (read_onnx, onnx),
    "hdf5": (lambda path: read_hdf5(path, str(path)), hdf5),
    "keras": (read_keras, keras(zipfile.ZIP_STORED)),
    "keras, packed": (read_keras, keras(zipfile.ZIP_DEFLATED)),
    "clmr": (lambda path: ENCODER.load_official("clmr", path), release),
}


def damaged(content, draw):
    """The content with one to four bytes changed, taken away or put in, most often where the zip's lists are."""
    content = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 4])):
        index, kind = draw.randrange(len(content)), draw.random()
        if draw.random() < 0.3:
            index = min(len(content) - 1, max(0, content.rfind(b"PK\1\2")) + draw.randrange(90))
        if kind < 0.7:
            content[index] = draw.randrange(256)
        elif kind < 0.85:
            del content[index : index + draw.randrange(1, 9)]
        else:
            content[index:index] = draw.randbytes(draw.randrange(1, 5))
    return content if draw.random() < 0.9 else content[: draw.randrange(len(content))]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", READERS)
def test_a_damaged_file_is_read_or_refused_in_one_line(kind, tmp_path):
    read, write = READERS[kind]
    path = tmp_path / "file"
    write(path)
    content, draw, refused = path.read_bytes(), random.Random(kind), 0
    read(path)
    for _ in range(TIMES):
        path.write_bytes(damaged(content, draw))
        try:
            read(path)
        except (WeightsError, DataError) as problem:
            refused += 1
            assert "\n" not in str(problem) and str(path) in str(problem)
    assert refused > TIMES / 10


def test_a_damaged_index_of_tensorflow_is_read_or_refused_in_one_line():
    # Checksums would hide the reader behind them, so here they always agree.
    pytest.importorskip("tensorboard")
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    entry = bytes([1 << 3, 1, 2 << 3 | 2, 4, 2 << 3 | 2, 2, 1 << 3, 2, 5 << 3, 8, 6 << 3 | 5])
    data = np.ones(2, "f4").tobytes()
    entries = [(b"", bytes([1 << 3, 1])), (b"w", entry + masked_crc32c(data).to_bytes(4, "little"))]
    draw, refused = random.Random(0), 0
    for time in range(8 * TIMES):
        block = b"".join(bytes([0, len(key), len(value)]) + key + value for key, value in entries) + bytes(4)
        block = bytes(damaged(block, draw)) if time else block
        try:
            tensors = read_tensorflow_checkpoint(table(block, masked_crc32c), data, "this file", lambda name: True)
            assert time or tensors["w"].tolist() == [1, 1]
        except WeightsError as problem:
            refused += 1
            assert "\n" not in str(problem) and "this file" in str(problem)
    assert refused > TIMES


def table(block, masked_crc32c):
    """A LevelDB index of one block of entries; no restart points, which a reader of all entries passes over."""
    out, handles = b"", []
    for content in (block, None):
        if content is None:
            content = bytes([0, 1, len(handles[0])]) + b"k" + handles[0] + bytes(4)
        handles.append(varint(len(out)) + varint(len(content)))
        out += content + b"\0" + masked_crc32c(content + b"\0").to_bytes(4, "little")
    return out + (b"\0\0" + handles[1]).ljust(40, b"\0") + (0xDB4775248B80FB57).to_bytes(8, "little")


def varint(value):
    value, out = value % 2**64, []
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


@pytest.mark.timeout(30)
def test_an_entry_that_refers_to_itself_is_refused():
    pytest.importorskip("tensorboard")
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    block = bytes([0, 0]) + varint(-12) + bytes(4)
    with pytest.raises(WeightsError, match="below zero"):
        read_tensorflow_checkpoint(table(block, masked_crc32c), b"", "this file", lambda name: True)


def test_arrays_that_a_file_only_declares_are_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    (tmp_path / "raw").write_bytes(bytes(40))
    for name, options in {
        "never written": {"shape": (10**12,), "chunks": (1000,)},
        "compressed": {"data": np.zeros(10**6, "f4"), "chunks": (10**6,), "compression": "gzip"},
        "elsewhere": {"shape": (10**12,), "external": [(str(tmp_path / "raw"), 0, h5py.h5f.UNLIMITED)]},
    }.items():
        path = tmp_path / f"{name}.hdf5"
        with h5py.File(path, "w") as file:
            file.create_dataset("w", dtype="f4", **options)
        with pytest.raises(WeightsError, match="w: more numbers than the file holds"):
            read_hdf5(path, str(path))


@pytest.mark.parametrize("name", ["config.json", "model.weights.h5"])
def test_a_zip_that_unpacks_to_a_thousand_times_its_size_is_refused(tmp_path, name):
    path = tmp_path / "bomb.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, bytes(50 * 2**20))
        archive.writestr(({"config.json", "model.weights.h5"} - {name}).pop(), b"{}")
    with pytest.raises(WeightsError, match=r"bomb\.keras: would grow to 52\.4 MB"):
        read_keras(path)


def test_a_layer_without_settings_is_refused(tmp_path):
    hdf5(tmp_path / "x.h5")
    layer = {"class_name": "Dense", "inbound_nodes": [], "config": None}
    with zipfile.ZipFile(tmp_path / "x.keras", "w") as archive:
        archive.writestr("config.json", json.dumps({"config": {"layers": [layer]}}))
        archive.write(tmp_path / "x.h5", "model.weights.h5")
    with pytest.raises(WeightsError, match=r"x\.keras: not whole or not a \.keras file"):
        read_keras(tmp_path / "x.keras")
