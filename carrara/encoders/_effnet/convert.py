"""The weights of EfficientNet-Discogs, or of any EfficientNet of its shape, from the graph of an ONNX file.

Convolutions are matched by their order. Exporters leave the batch norm after a convolution, fold it into its kernel, or
write it as a factor and a sum; all of these are folded into the kernel and a bias here, so our norms only add. (To
fine-tune such weights, keep the norms in evaluation mode.) Any other node that would change the numbers – another
activation, a factor elsewhere, permuted axes – is refused by name.

Letters: O outputs, I inputs, H and W the axes of a kernel.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from carrara.core.errors import WeightsError
from carrara.formats.onnx import OnnxGraph, OnnxNode
from carrara.nn.conv.efficientnet import EPSILON
from carrara.nn.conv.same_padding import same_padding

ONNX_FILE = "discogs-effnet-bsdynamic-1.onnx"
ACTIVATIONS = {"Clip", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "PRelu", "Relu", "Softplus", "Tanh"}
ARITHMETIC = {"Add", "Sub", "Mul", "Div", "Pow", "Min", "Max"}
NORM, DENSE = "BatchNormalization", ("Gemm", "MatMul")
# Channels first to last and back, and a transposed matrix.
HARMLESS_PERMUTATIONS = ([0, 3, 1, 2], [0, 2, 3, 1], [1, 0])


def convert_graph(graph: OnnxGraph, encoder: nn.Module, source: str) -> dict[str, Tensor]:
    """Return the weights by the encoder's names.

    Args:
        graph: graph of the file.
        encoder: a module with `network` (an EfficientNet) and `classifier`; it may be on meta.
        source: name of the file in messages.

    Raises:
        WeightsError: the graph is not that of this network.
    """
    converter = _Converter(graph, source)
    modules = {name: module for name, module in encoder.named_modules() if isinstance(module, nn.Conv2d)}
    convolutions = [node for node in graph.nodes if node.op_type == "Conv"]
    dense = [node for node in graph.nodes if node.op_type in DENSE]
    if len(convolutions) != len(modules) or len(dense) != 1:
        raise WeightsError(
            f"{source}: has {len(convolutions)} convolutions and {len(dense)} dense layers where this network has "
            f"{len(modules)} and 1; give {ONNX_FILE}"
        )
    tensors = converter.dense_weights(dense[0])
    rules: set[bool] = set()
    for node, (name, module) in zip(convolutions, modules.items()):
        tensors |= converter.convolution_weights(node, name, module)
        if module.stride[0] > 1:
            rules.add(converter.has_symmetric_padding(node, name, module.kernel_size[0]))
    converter.refuse_unknown_nodes()
    if len(rules) > 1:
        raise WeightsError(f"{source}: its strides follow two padding rules; give {ONNX_FILE}")
    return tensors | {"network.symmetric": torch.tensor(True in rules)}


class _Converter:
    """A file's graph with its producers and consumers, the nodes already converted, and the name for messages."""

    def __init__(self, graph: OnnxGraph, source: str) -> None:
        self.graph, self.source = graph, source
        self.producers = {name: node for node in graph.nodes for name in node.outputs}
        self.consumers: dict[str, list[OnnxNode]] = {}
        for node in graph.nodes:
            for name in set(node.inputs):
                self.consumers.setdefault(name, []).append(node)
        self.converted: set[str] = set()

    def convolution_weights(self, node: OnnxNode, name: str, module: nn.Conv2d) -> dict[str, Tensor]:
        """Return the weights of a convolution and of its norm, if it has one here."""
        weight_OIHW, attributes = self._constant(node, 1), node.attributes
        strides, groups = attributes.get("strides", [1, 1]), attributes.get("group", 1)
        if weight_OIHW.shape != module.weight.shape or strides != list(module.stride) or groups != module.groups:
            raise self._mismatch(node, name, f"kernel {tuple(module.weight.shape)} and stride {module.stride[0]}")
        if attributes.get("dilations", [1, 1]) != [1, 1]:
            raise self._mismatch(node, name, "no dilation")
        half = module.kernel_size[0] // 2
        explicit = module.stride[0] == 1 and attributes.get("auto_pad") != "SAME_UPPER"
        if explicit and self._padding(node) != ([half] * 2,) * 2:
            raise self._mismatch(node, name, f"{half} zeros on every side")
        weight_OIHW, bias_O = self._fold_following(node, weight_OIHW)
        if module.bias is not None:
            return {f"{name}.weight": weight_OIHW, f"{name}.bias": bias_O}
        norm, ones_O = name.removesuffix("conv") + "norm", torch.ones_like(bias_O)
        return {
            f"{name}.weight": weight_OIHW,
            f"{norm}.weight": ones_O,
            f"{norm}.bias": bias_O,
            f"{norm}.running_mean": torch.zeros_like(bias_O),
            f"{norm}.running_var": ones_O - EPSILON,
            f"{norm}.num_batches_tracked": torch.tensor(0),
        }

    def dense_weights(self, node: OnnxNode) -> dict[str, Tensor]:
        """Return the classifier's weights."""
        attributes = node.attributes
        if (attributes.get("alpha", 1), attributes.get("beta", 1), attributes.get("transA", 0)) != (1, 1, 0):
            raise self._mismatch(node, "classifier", "a plain product")
        weight = self._constant(node, 1)
        weight_OI, bias_O = self._fold_following(node, weight if attributes.get("transB", 0) else weight.mT)
        return {"classifier.weight": weight_OI.contiguous(), "classifier.bias": bias_O}

    def has_symmetric_padding(self, node: OnnxNode, name: str, kernel: int) -> bool:
        """Return whether a convolution with stride 2 has symmetric padding (see `same_padding`)."""
        auto_pad, (before, after) = node.attributes.get("auto_pad", "NOTSET"), self._padding(node)
        if auto_pad == "SAME_UPPER":
            return False
        for symmetric in (False, True):
            # All maps that a stride halves here have an even size.
            front, back = same_padding(kernel * 2, kernel, 2, symmetric)
            if auto_pad in ("NOTSET", "VALID") and before == [front] * 2 and min(after) >= back:
                return symmetric
        raise self._mismatch(node, name, "the padding of TensorFlow or PyTorch")

    def refuse_unknown_nodes(self) -> None:
        """Raise WeightsError if a node that was not converted would change the numbers."""
        for node in self.graph.nodes:
            constants = [self.graph.tensors[name] for name in node.inputs if name in self.graph.tensors]
            scales = node.op_type in ARITHMETIC and any(constant.is_floating_point() for constant in constants)
            permutes = node.op_type == "Transpose" and node.attributes.get("perm") not in HARMLESS_PERMUTATIONS
            changes = node.op_type in {NORM, *ACTIVATIONS} or scales or permutes
            if changes and node.outputs[0] not in self.converted:
                raise WeightsError(
                    f"{self.source}: has a node {node.op_type} ({node.outputs[0]}) that this network does not have; "
                    f"give {ONNX_FILE}"
                )

    def _fold_following(self, node: OnnxNode, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return a layer's weight and bias, with the norm, factors and sums that follow it folded in."""
        outputs = len(weight)
        gain_O = torch.ones(outputs, dtype=torch.float64)
        shift_O = self._constant(node, 2).double() if len(node.inputs) > 2 else torch.zeros_like(gain_O)
        shape = (outputs, *(1 for _ in weight.shape[2:]))  # [O, 1, 1] beside a map, [O] beside a vector
        while len(consumers := self.consumers.get(node.outputs[0], [])) == 1:
            name, node = node.outputs[0], consumers[0]
            if node.op_type == NORM:
                scale_O, add_O, mean_O, variance_O = (self._constant(node, index).double() for index in (1, 2, 3, 4))
                scale_O = scale_O / (variance_O + node.attributes.get("epsilon", 1e-5)).sqrt()
                gain_O, shift_O = gain_O * scale_O, (shift_O - mean_O) * scale_O + add_O
            else:
                constant = self.graph.tensors.get(node.inputs[-1] if node.inputs[0] == name else node.inputs[0])
                reversed_ = node.inputs[0] != name and node.op_type in ("Sub", "Div")
                if node.op_type not in ("Add", "Sub", "Mul", "Div") or constant is None or reversed_:
                    break
                if constant.numel() != 1 and constant.squeeze(0).shape != shape:
                    break
                value = constant.double().flatten()
                shift_O = {"Add": shift_O + value, "Sub": shift_O - value}.get(node.op_type, shift_O)
                factor = {"Mul": value, "Div": 1 / value}.get(node.op_type, torch.ones(1))
                gain_O, shift_O = gain_O * factor, shift_O * factor
            self.converted.add(node.outputs[0])
        gain = gain_O.view(-1, *(1 for _ in weight.shape[1:]))
        return (weight.double() * gain).float(), shift_O.float()

    def _padding(self, conv: OnnxNode) -> tuple[list[int], list[int]]:
        """Return the zeros before and after each axis, in the convolution or in a node before it."""
        pads = conv.attributes.get("pads", [0, 0, 0, 0])
        before, after = pads[:2], pads[2:]
        pad = self.producers.get(conv.inputs[0])
        if pad is None or pad.op_type != "Pad":
            return before, after
        values = pad.attributes.get("pads") or self._constant_list(pad.inputs[1])
        if pad.attributes.get("mode", "constant") != "constant" or len(values) not in (4, 8):
            raise self._mismatch(pad, "this network", "zeros around its maps, as many as the file says")
        if len(values) == 8:  # before each axis of the batch of maps, then after each
            _, _, top, left, _, _, bottom, right = values
        else:  # PyTorch's order, from the last axis on
            left, right, top, bottom = values
        return [before[0] + top, before[1] + left], [after[0] + bottom, after[1] + right]

    def _constant_list(self, name: str) -> list[int]:
        """Return the list behind a name: a constant, or the four numbers of which PyTorch makes a list of eight."""
        pending, seen = [name], set()
        while pending:
            name = pending.pop()
            tensor = self.graph.tensors.get(name)
            if tensor is not None and tensor.numel() in (4, 8):
                return [int(number) for number in tensor.flatten()]
            if name not in seen and name in self.producers:
                pending += self.producers[name].inputs
            seen.add(name)
        return []

    def _constant(self, node: OnnxNode, index: int) -> Tensor:
        tensor = self.graph.tensors.get(node.inputs[index]) if len(node.inputs) > index else None
        if tensor is None or not tensor.is_floating_point():
            raise WeightsError(
                f"{self.source}: input {index} of its {node.op_type} ({node.outputs[0]}) is no constant; "
                f"give {ONNX_FILE}"
            )
        return tensor.float()

    def _mismatch(self, node: OnnxNode, name: str, expected: str) -> WeightsError:
        weight = self.graph.tensors.get(node.inputs[1]) if len(node.inputs) > 1 else None
        shape = "" if weight is None else f" with kernel {tuple(weight.shape)}"
        return WeightsError(
            f"{self.source}: its {node.op_type} ({node.outputs[0]}){shape} does not fit {name}, "
            f"which has {expected}; give {ONNX_FILE}"
        )
