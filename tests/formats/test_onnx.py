"""The reader of ONNX files: nodes and constants against the onnx package's writer, and broken files."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from carrara.core.errors import UsageError, WeightsError
from carrara.formats.onnx import read_onnx

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

ARRAY = np.arange(12, dtype="<f4").reshape(3, 1, 4) - 5.5
ATTRIBUTES = {
    "pads": [0, 0, 1, 1],
    "group": 3,
    "axis": -1,
    "auto_pad": "NOTSET",
    "alpha": 0.25,
    "scales": [1.5, -2.0],
}
CONV = helper.make_node("Conv", ["x", "w", "b"], ["y"], **ATTRIBUTES)


def model(nodes, constants):
    return helper.make_model(helper.make_graph(nodes, "graph", [], [], constants))


def named(array, name="w"):
    return numpy_helper.from_array(np.asarray(array), name)


FILE = model([CONV], [named(ARRAY), named(ARRAY[0, 0], "b")]).SerializeToString()


@pytest.fixture
def written(tmp_path):
    def write(content):
        path = tmp_path / "model.onnx"
        path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
        return path

    return write


def test_nodes_and_constants_are_read_as_written(written):
    graph = read_onnx(written(FILE))
    assert [node[:3] for node in graph.nodes] == [("Conv", ["x", "w", "b"], ["y"])]
    assert graph.nodes[0].attributes == ATTRIBUTES
    assert list(graph.tensors) == ["w", "b"]
    assert torch.equal(graph.tensors["w"], torch.from_numpy(ARRAY))


@pytest.mark.parametrize(
    "array",
    [
        *(ARRAY.astype(dtype) for dtype in ("<f2", "<f4", "<f8", "<i4", "<i8")),
        np.array([-3, 2**40]),
        np.float32(0.5),
        np.zeros((0, 3), "<f4"),
    ],
)
@pytest.mark.parametrize("raw", [True, False])
def test_numbers_are_read_in_every_storage(written, array, raw):
    array = np.asarray(array)
    values = array.tobytes() if raw else array.flatten().tolist()
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    constant = helper.make_tensor("w", kind, array.shape, values, raw=raw)
    tensor = read_onnx(written(model([CONV], [constant]))).tensors["w"]
    assert tensor.dtype == torch.as_tensor(array).dtype and torch.equal(tensor, torch.as_tensor(array))


def test_outputs_of_constant_and_identity_nodes_are_constants(written):
    nodes = [
        helper.make_node("Constant", [], ["c"], value=named(ARRAY, "")),
        helper.make_node("Constant", [], ["d"], value_ints=[4, 5]),
        helper.make_node("Identity", ["w"], ["again"]),
        helper.make_node("Identity", ["x"], ["y"]),
    ]
    tensors = read_onnx(written(model(nodes, [named(ARRAY)]))).tensors
    assert sorted(tensors) == ["again", "c", "d", "w"]
    assert torch.equal(tensors["c"], torch.from_numpy(ARRAY))
    assert tensors["d"].tolist() == [4, 5]
    assert torch.equal(tensors["again"], tensors["w"])


def test_strings_are_left_out(written):
    assert not read_onnx(written(model([CONV], [helper.make_tensor("s", TensorProto.STRING, [1], [b"text"])]))).tensors


def _with_fewer_numbers():
    constant = named(ARRAY)
    constant.raw_data = constant.raw_data[:-4]
    return model([CONV], [constant])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"<!doctype html>", "web page"),
        (FILE[:-40], "not whole or not an ONNX file"),
        (b"RIFF\x24\x08\0\0WAVEfmt ", "not whole or not an ONNX file"),
        (b"\n\x07\n\x05Const", "not whole or not an ONNX file"),
        (_with_fewer_numbers(), "not whole or not an ONNX file"),
        (model([helper.make_node("Identity", ["w"], [])], [named(ARRAY)]), "not whole or not an ONNX file"),
    ],
    ids=["empty", "pointer", "page", "cut short", "sound", "TensorFlow's graph", "few numbers", "no output"],
)
def test_an_incomplete_or_other_file_is_named(written, content, message):
    path = written(content)
    with pytest.raises(WeightsError, match=message) as caught:
        read_onnx(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("inside_node", [False, True])
@pytest.mark.parametrize("location", ["weights.bin", "../weights.bin", "{tmp}/weights.bin"])
def test_weights_in_another_file_are_not_opened(tmp_path, written, location, inside_node):
    (tmp_path / "weights.bin").write_bytes(ARRAY.tobytes())
    constant = named(ARRAY)
    constant.ClearField("raw_data")
    constant.data_location = TensorProto.EXTERNAL
    constant.external_data.add(key="location", value=location.format(tmp=tmp_path))
    node = helper.make_node("Constant", [], ["c"], value=constant)
    with pytest.raises(WeightsError, match="in another file; save it as one ONNX file"):
        read_onnx(written(model([node], []) if inside_node else model([CONV], [constant])))


def test_a_missing_file_and_a_missing_package_are_named(tmp_path, written, monkeypatch):
    with pytest.raises(WeightsError, match="nowhere.onnx"):
        read_onnx(tmp_path / "nowhere.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UsageError, match=r"model\.onnx: .*pip install 'carrara\[onnx\]'$"):
        read_onnx(written(FILE))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path_factory, data):
    content = bytearray(FILE[: data.draw(st.integers(1, len(FILE)))])
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(content)
    try:
        read_onnx(path)
    except WeightsError as problem:
        assert "\n" not in str(problem)
