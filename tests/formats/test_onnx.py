"""The reader of ONNX files against files written here byte by byte, against the onnx package, and with broken ones."""

import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from carrara.core.errors import WeightsError
from carrara.formats.onnx import read_onnx


def varint(number):
    number %= 2**64
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number, value):
    """A field of a protocol buffer: a number, a float, or anything of bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(name, array, *stored, kind=1):
    return b"".join([*(field(1, size) for size in array.shape), field(2, kind), *stored, field(8, name)])


def raw(name, array, kind=1):
    return tensor(name, array, field(9, array.tobytes()), kind=kind)


def setting(name, kind, *values):
    return field(5, field(1, name) + b"".join(values) + field(20, kind))


def node(kind, inputs, outputs, *settings):
    return b"".join(
        [*(field(1, name) for name in inputs), *(field(2, name) for name in outputs), field(4, kind), *settings]
    )


def model(nodes, initialisers):
    graph = b"".join(
        [*(field(1, part) for part in nodes), field(2, "graph"), *(field(5, part) for part in initialisers)]
    )
    return field(1, 8) + field(2, "a test") + field(7, graph) + field(8, field(2, 13))


ARRAY = np.arange(12, dtype="<f4").reshape(3, 1, 4) - 5.5
CONV = node(
    "Conv",
    ["x", "w", "b"],
    ["y"],
    setting("pads", 7, *(field(8, size) for size in (0, 0, 1, 1))),
    setting("strides", 7, field(8, varint(2) + varint(2))),
    setting("group", 2, field(3, 3)),
    setting("axis", 2, field(3, -1)),
    setting("auto_pad", 3, field(4, "NOTSET")),
    setting("alpha", 1, field(2, 0.25)),
    setting("scales", 6, field(7, struct.pack("<2f", 1.5, -2.0))),
)
FILE = model([CONV], [raw("w", ARRAY), raw("b", ARRAY[0, 0])])


@pytest.fixture
def written(tmp_path):
    def write(content):
        (tmp_path / "model.onnx").write_bytes(content)
        return tmp_path / "model.onnx"

    return write


def test_steps_and_constants_come_out_as_they_went_in(written):
    graph = read_onnx(written(FILE))
    assert [step[:3] for step in graph.nodes] == [("Conv", ["x", "w", "b"], ["y"])]
    assert graph.nodes[0].attributes == {
        "pads": [0, 0, 1, 1],
        "strides": [2, 2],
        "group": 3,
        "axis": -1,
        "auto_pad": "NOTSET",
        "alpha": 0.25,
        "scales": [1.5, -2.0],
    }
    assert list(graph.tensors) == ["w", "b"]
    assert torch.equal(graph.tensors["w"], torch.from_numpy(ARRAY))


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (tensor("w", ARRAY, field(4, ARRAY.tobytes())), ARRAY),
        (tensor("w", ARRAY, *(field(4, float(number)) for number in ARRAY.flat)), ARRAY),
        (raw("w", ARRAY.astype("<f2"), kind=10), ARRAY.astype("<f2")),
        (raw("w", ARRAY.astype("<f8"), kind=11), ARRAY.astype("<f8")),
        (raw("w", np.array([-3, 2**40]), kind=7), np.array([-3, 2**40])),
        (tensor("w", np.zeros(2), field(7, varint(-3) + varint(2**40)), kind=7), np.array([-3, 2**40])),
        (raw("w", np.float32(0.5)), np.float32(0.5)),
        (tensor("w", np.zeros((0, 3), "<f4")), np.zeros((0, 3), "<f4")),
    ],
    ids=["packed", "one by one", "half", "double", "raw integers", "integers", "scalar", "no numbers"],
)
def test_numbers_are_read_however_they_are_stored(written, part, expected):
    found = read_onnx(written(model([node("Relu", ["w"], ["y"])], [part]))).tensors["w"]
    assert torch.equal(found, torch.as_tensor(np.asarray(expected)))


def test_constants_made_or_renamed_by_a_step_are_constants(written):
    steps = [
        node("Constant", [], ["c"], setting("value", 4, field(5, raw("", ARRAY)))),
        node("Constant", [], ["d"], setting("value_ints", 7, field(8, varint(4) + varint(5)))),
        node("Identity", ["w"], ["again"]),
        node("Identity", ["x"], ["y"]),
    ]
    tensors = read_onnx(written(model(steps, [raw("w", ARRAY)]))).tensors
    assert sorted(tensors) == ["again", "c", "d", "w"]
    assert torch.equal(tensors["c"], torch.from_numpy(ARRAY))
    assert tensors["d"].tolist() == [4, 5]
    assert torch.equal(tensors["again"], tensors["w"])


def test_constants_of_other_kinds_are_left_out(written):
    strings = tensor("s", np.zeros(1), field(6, b"text"), kind=8)
    assert not read_onnx(written(model([CONV], [strings]))).tensors


def test_the_onnx_package_reads_the_same(tmp_path):
    onnx = pytest.importorskip("onnx")
    from onnx import helper, numpy_helper

    step = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 2, 3, 4], auto_pad="VALID", alpha=0.5, axis=-2)
    inside = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(ARRAY))
    plain = helper.make_tensor("p", 1, ARRAY.shape, ARRAY.flatten().tolist())
    graph = helper.make_graph([step, inside], "g", [], [], [numpy_helper.from_array(ARRAY, "w"), plain])
    onnx.save(helper.make_model(graph), tmp_path / "theirs.onnx")
    found = read_onnx(tmp_path / "theirs.onnx")
    assert found.nodes[0].attributes == {"pads": [1, 2, 3, 4], "auto_pad": "VALID", "alpha": 0.5, "axis": -2}
    assert all(torch.equal(found.tensors[name], torch.from_numpy(ARRAY)) for name in ("w", "c", "p"))
    (tmp_path / "ours.onnx").write_bytes(FILE)
    theirs = onnx.load(tmp_path / "ours.onnx").graph
    assert np.array_equal(numpy_helper.to_array(theirs.initializer[0]), ARRAY)
    assert helper.get_attribute_value(theirs.node[0].attribute[0]) == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"<!doctype html>", "web page"),
        (FILE[:-40], "not whole or not an ONNX file"),
        (b"RIFF\x24\x08\0\0WAVEfmt ", "not whole or not an ONNX file"),
        (field(1, node("Const", [], [])), "not whole or not an ONNX file"),
        (model([CONV], [tensor("w", ARRAY, field(9, ARRAY.tobytes()[:-4]))]), "not whole or not an ONNX file"),
        (model([node("Identity", ["w"], [])], [raw("w", ARRAY)]), "not whole or not an ONNX file"),
        (model([CONV], [raw("w", ARRAY) + field(14, 1)]), "in another file"),
    ],
    ids=[
        "empty",
        "pointer",
        "page",
        "cut short",
        "sound",
        "TensorFlow's graph",
        "few numbers",
        "no output",
        "elsewhere",
    ],
)
def test_what_is_no_whole_onnx_file_is_named(written, content, message):
    path = written(content)
    with pytest.raises(WeightsError, match=message) as problem:
        read_onnx(path)
    assert str(path) in str(problem.value)
    assert "\n" not in str(problem.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match="nowhere.onnx"):
        read_onnx(tmp_path / "nowhere.onnx")


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
