"""ONNX files read without onnxruntime: the nodes of the graph in their order, and the constants that they use.

Read by the onnx package, an extra that only these files need. Weights under other names than the network's own are
matched by the order of the nodes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from carrara.core.errors import UsageError, WeightsError
from carrara.formats.magic import read_magic, wrap_errors


class OnnxNode(NamedTuple):
    """A node: its operator ("Conv"), the names of its inputs and outputs, and its attributes by name."""

    op_type: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]


class OnnxGraph(NamedTuple):
    """The nodes in an order of execution, and the constants by name."""

    nodes: list[OnnxNode]
    tensors: dict[str, Tensor]


def read_onnx(path: Path) -> OnnxGraph:
    """Return the graph of an ONNX file. Outputs of Constant nodes and renamed constants count as constants.

    Constants and attributes of other types than float16 to float64, int32 and int64 (strings, quantised numbers,
    graphs) are left out.

    Raises:
        UsageError: The onnx package is not installed.
        WeightsError: The file is missing, damaged, not ONNX, or keeps its weights in other files, which are not opened.
    """
    path = Path(path)
    read_magic(path)
    try:
        import onnx
    except ImportError:
        raise UsageError(f"{path}: ONNX files are read by onnx; pip install 'carrara[onnx]'") from None
    proto = onnx.TensorProto
    dtypes = {proto.FLOAT, proto.INT32, proto.INT64, proto.FLOAT16, proto.DOUBLE}
    kinds = onnx.AttributeProto

    def to_tensor(tensor: Any) -> Tensor | None:
        if tensor.data_location == proto.EXTERNAL:
            raise WeightsError(f"{path}: keeps its weights in another file; save it as one ONNX file")
        if tensor.data_type not in dtypes:
            return None
        return torch.from_numpy(np.array(onnx.numpy_helper.to_array(tensor)))

    def to_value(attribute: Any) -> Any:
        value = onnx.helper.get_attribute_value(attribute)
        if attribute.type == kinds.STRING:
            return value.decode()
        if attribute.type == kinds.TENSOR:
            return to_tensor(value)
        if attribute.type in (kinds.FLOATS, kinds.INTS):
            return list(value)
        return value if attribute.type in (kinds.FLOAT, kinds.INT) else None

    with wrap_errors(path, "an ONNX file"):
        graph = onnx.load(path, format="protobuf", load_external_data=False).graph
        if not graph.node:
            raise ValueError("a graph without nodes")
        tensors = {tensor.name: to_tensor(tensor) for tensor in graph.initializer}
        nodes = []
        for node in graph.node:
            attributes = {attribute.name: to_value(attribute) for attribute in node.attribute}
            attributes = {name: value for name, value in attributes.items() if value is not None}
            nodes.append(OnnxNode(node.op_type, list(node.input), list(node.output), attributes))
            if node.op_type == "Identity" and node.input and node.input[0] in tensors:
                tensors[node.output[0]] = tensors[node.input[0]]
            if node.op_type == "Constant":
                values = [value for value in attributes.values() if not isinstance(value, str)]
                tensors |= {name: torch.as_tensor(value) for name, value in zip(node.output, values)}
        return OnnxGraph(nodes, {name: tensor for name, tensor in tensors.items() if tensor is not None})
