"""ONNX files read without onnxruntime: the steps of the graph in their order, and the constants that they use.

An ONNX file is one protocol buffer (_protobuf.py): a model that holds a graph, which holds nodes and initialisers.
Numbers of fields: onnx.proto (Apache-2.0) of the ONNX project, IR version 3 and later.

Weights under other names than the network's own are found by the order of the steps; `Graph.nodes` keeps it.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from carrara.core.errors import WeightsError
from carrara.formats.protobuf import Fields, varint
from carrara.formats.protobuf import fields as fields_of
from carrara.formats.weights import read_magic, wrap_errors

# TensorProto.DataType of what is read; other constants (strings, quantised numbers) are left out.
FLOAT32, INT64 = 1, 7
KINDS = {FLOAT32: "<f4", 6: "<i4", INT64: "<i8", 10: "<f2", 11: "<f8"}
FLOAT, INT, STRING, TENSOR, FLOATS, INTS = 1, 2, 3, 4, 6, 7


class OnnxNode(NamedTuple):
    """A step: what it does ("Conv"), the names of what goes in and comes out, and its settings by name."""

    op_type: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]


class OnnxGraph(NamedTuple):
    """The steps in an order in which they can run, and the constants by name."""

    nodes: list[OnnxNode]
    tensors: dict[str, Tensor]


def read_onnx(path: Path) -> OnnxGraph:
    """Return the graph of an ONNX file; constants that are made by a step, or renamed by one, are among its constants.

    Raises:
        WeightsError: the file is missing, empty, a web page, a Git LFS pointer, not ONNX or cut short, or keeps its
            weights in other files.
    """
    path = Path(path)
    read_magic(path)
    with wrap_errors(path, "an ONNX file"):
        try:
            return _graph(path.read_bytes())
        except _Elsewhere:
            raise WeightsError(f"{path}: keeps its weights in another file; save it as one ONNX file") from None


class _Elsewhere(ValueError):
    """A tensor's numbers lie in another file."""


def _graph(content: bytes) -> OnnxGraph:
    graph = fields_of(fields_of(memoryview(content))[7][0])
    tensors = dict(_tensor(fields_of(part)) for part in graph.get(5, []))
    nodes = [_node(fields_of(part)) for part in graph[1]]
    for node in nodes:
        if node.op_type == "Identity" and node.inputs[:1] and node.inputs[0] in tensors:
            tensors[node.outputs[0]] = tensors[node.inputs[0]]
        if node.op_type == "Constant":
            values = [value for value in node.attributes.values() if not isinstance(value, str)]
            tensors |= {name: torch.as_tensor(value) for name, value in zip(node.outputs, values)}
    return OnnxGraph(nodes, {name: tensor for name, tensor in tensors.items() if tensor is not None})


def _text(values: list[Any]) -> str:
    return values[0].tobytes().decode() if values else ""


def _numbers(values: list[Any]) -> list[int]:
    """Return repeated numbers, which stand one a field or packed together."""
    found = []
    for value in values:
        if isinstance(value, int):
            found.append(value)
            continue
        place = 0
        while place < len(value):
            number, place = varint(value, place)
            found.append(number)
    return found


def _floats(values: list[Any]) -> list[float]:
    packed = b"".join(values)
    return list(struct.unpack(f"<{len(packed) // 4}f", packed))


def _tensor(fields: Fields) -> tuple[str, Tensor | None]:
    """Return a tensor's name and numbers; none where they are of a kind that is not read."""
    if fields.get(14, [0])[0]:
        raise _Elsewhere
    shape, kind, name = _numbers(fields.get(1, [])), fields.get(2, [0])[0], _text(fields.get(8, []))
    if kind not in KINDS:
        return name, None
    if 9 in fields:
        numbers = np.frombuffer(fields[9][0], KINDS[kind])
    elif kind in (FLOAT32, INT64):
        listed = _floats(fields.get(4, [])) if kind == FLOAT32 else _numbers(fields.get(7, []))
        numbers = np.array(listed, KINDS[kind])
    else:
        return name, None
    if any(size < 0 for size in shape) or math.prod(shape) != len(numbers):
        raise ValueError(f"{name}: as many numbers as its shape says")
    return name, torch.from_numpy(numbers.reshape(shape).astype(numbers.dtype.newbyteorder("=")))


def _node(fields: Fields) -> OnnxNode:
    settings = dict(_setting(fields_of(part)) for part in fields.get(5, []))
    inputs, outputs = ([_text([name]) for name in fields.get(number, [])] for number in (1, 2))
    return OnnxNode(
        _text(fields[4]), inputs, outputs, {name: value for name, value in settings.items() if value is not None}
    )


def _setting(fields: Fields) -> tuple[str, Any]:
    """Return a setting's name and value; none where it is of a kind that is not read (a graph, a list of strings)."""
    name, kind = _text(fields[1]), fields.get(20, [0])[0]
    if kind == FLOAT:
        return name, _floats(fields.get(2, [bytes(4)]))[0]
    if kind == INT:
        return name, fields.get(3, [0])[0]
    if kind == STRING:
        return name, _text(fields.get(4, []))
    if kind == TENSOR:
        return name, _tensor(fields_of(fields[5][0]))[1]
    if kind == FLOATS:
        return name, _floats(fields.get(7, []))
    return name, _numbers(fields.get(8, [])) if kind == INTS else None
