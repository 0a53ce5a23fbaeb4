"""The weights of EfficientNet-Discogs, or of any EfficientNet of its shape, out of the graph of an ONNX file.

Convolutions are told by their order. Exporters leave the batch norm behind a convolution, fold it into its kernel, or
write it as a factor and a sum; whatever stands there is folded into the kernel and a bias, so our norms come out as
ones that only add. (To fine-tune such weights, keep the norms in evaluation mode.) Anything else that would change the
numbers, another activation, a factor elsewhere, axes that change places, is refused by name.

Letters: O outputs, I inputs, H and W the axes of a kernel.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from carrara.core.errors import WeightsError
from carrara.formats.onnx import Graph, Node
from carrara.nn.conv.efficientnet import EPSILON, zeros_around

FILE = "discogs-effnet-bsdynamic-1.onnx"
ACTIVATIONS = {"Clip", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "PRelu", "Relu", "Softplus", "Tanh"}
ARITHMETIC = {"Add", "Sub", "Mul", "Div", "Pow", "Min", "Max"}
NORM, DENSE = "BatchNormalization", ("Gemm", "MatMul")
# Channels first to last and back, and a matrix turned over.
HARMLESS_TURNS = ([0, 3, 1, 2], [0, 2, 3, 1], [1, 0])


def weights_of(graph: Graph, encoder: nn.Module, source: str) -> dict[str, Tensor]:
    """Return the weights by the encoder's names.

    Args:
        graph: of the file.
        encoder: with `network` (an EfficientNet) and `classifier`; it may be on meta.
        source: what messages call the file.

    Raises:
        WeightsError: the graph is not that of this network.
    """
    reader = _Reader(graph, source)
    ours = {name: module for name, module in encoder.named_modules() if isinstance(module, nn.Conv2d)}
    theirs = [node for node in graph.nodes if node.kind == "Conv"]
    dense = [node for node in graph.nodes if node.kind in DENSE]
    if len(theirs) != len(ours) or len(dense) != 1:
        raise WeightsError(
            f"{source}: has {len(theirs)} convolutions and {len(dense)} dense layers where this network has "
            f"{len(ours)} and 1; give {FILE}"
        )
    tensors = reader.dense(dense[0])
    rules: set[bool] = set()
    for node, (name, module) in zip(theirs, ours.items()):
        tensors |= reader.convolution(node, name, module)
        if module.stride[0] > 1:
            rules.add(reader.symmetric(node, name, module.kernel_size[0]))
    reader.refuse_what_is_left()
    if len(rules) > 1:
        raise WeightsError(f"{source}: its strides follow two rules for the zeros around a map; give {FILE}")
    return tensors | {"network.symmetric": torch.tensor(True in rules)}


class _Reader:
    """One file's graph, with who makes and who uses what in it, the steps understood, and the name for messages."""

    def __init__(self, graph: Graph, source: str) -> None:
        self.graph, self.source = graph, source
        self.maker = {name: node for node in graph.nodes for name in node.outputs}
        self.users: dict[str, list[Node]] = {}
        for node in graph.nodes:
            for name in set(node.inputs):
                self.users.setdefault(name, []).append(node)
        self.understood: set[str] = set()

    def convolution(self, node: Node, name: str, module: nn.Conv2d) -> dict[str, Tensor]:
        """Return the weights of a convolution and of its norm, if it has one here."""
        weight_OIHW, settings = self._constant(node, 1), node.settings
        strides, groups = settings.get("strides", [1, 1]), settings.get("group", 1)
        if weight_OIHW.shape != module.weight.shape or strides != list(module.stride) or groups != module.groups:
            raise self._other(node, name, f"kernel {tuple(module.weight.shape)} and stride {module.stride[0]}")
        if settings.get("dilations", [1, 1]) != [1, 1]:
            raise self._other(node, name, "no dilation")
        half = module.kernel_size[0] // 2
        if (
            module.stride[0] == 1
            and settings.get("auto_pad") != "SAME_UPPER"
            and self._zeros(node) != ([half] * 2,) * 2
        ):
            raise self._other(node, name, f"{half} zeros on every side")
        weight_OIHW, bias_O = self._folded(node, weight_OIHW)
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

    def dense(self, node: Node) -> dict[str, Tensor]:
        """Return the classifier's weights."""
        if [node.settings.get(key, wanted) for key, wanted in (("alpha", 1), ("beta", 1), ("transA", 0))] != [1, 1, 0]:
            raise self._other(node, "classifier", "a plain product")
        weight = self._constant(node, 1)
        weight_OI, bias_O = self._folded(node, weight if node.settings.get("transB", 0) else weight.mT)
        return {"classifier.weight": weight_OI.contiguous(), "classifier.bias": bias_O}

    def symmetric(self, node: Node, name: str, kernel: int) -> bool:
        """Tell which rule the zeros around a convolution with stride 2 follow (see `zeros_around`)."""
        automatic, (before, after) = node.settings.get("auto_pad", "NOTSET"), self._zeros(node)
        if automatic == "SAME_UPPER":
            return False
        for rule in (False, True):
            # All maps that a stride halves here are of an even size.
            front, back = zeros_around(kernel * 2, kernel, rule)
            if automatic in ("NOTSET", "VALID") and before == [front] * 2 and min(after) >= back:
                return rule
        raise self._other(node, name, "zeros as TensorFlow or PyTorch would put them")

    def refuse_what_is_left(self) -> None:
        """Raise WeightsError where a step not yet understood would change the numbers."""
        for node in self.graph.nodes:
            constants = [self.graph.tensors[name] for name in node.inputs if name in self.graph.tensors]
            factor = node.kind in ARITHMETIC and any(constant.is_floating_point() for constant in constants)
            turned = node.kind == "Transpose" and node.settings.get("perm") not in HARMLESS_TURNS
            if node.outputs[0] not in self.understood and (node.kind in {NORM, *ACTIVATIONS} or factor or turned):
                raise WeightsError(
                    f"{self.source}: has a step {node.kind} ({node.outputs[0]}) that this network has not; give {FILE}"
                )

    def _folded(self, node: Node, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return a layer's weight and bias, with the norm, factors and sums that follow it folded in."""
        outputs = len(weight)
        gain_O = torch.ones(outputs, dtype=torch.float64)
        shift_O = self._constant(node, 2).double() if len(node.inputs) > 2 else torch.zeros_like(gain_O)
        shape = (outputs, *(1 for _ in weight.shape[2:]))  # [O, 1, 1] beside a map, [O] beside a vector
        while len(users := self.users.get(node.outputs[0], [])) == 1:
            name, node = node.outputs[0], users[0]
            if node.kind == NORM:
                scale_O, add_O, mean_O, variance_O = (self._constant(node, number).double() for number in (1, 2, 3, 4))
                scale_O = scale_O / (variance_O + node.settings.get("epsilon", 1e-5)).sqrt()
                gain_O, shift_O = gain_O * scale_O, (shift_O - mean_O) * scale_O + add_O
            else:
                constant = self.graph.tensors.get(node.inputs[-1] if node.inputs[0] == name else node.inputs[0])
                turned = node.inputs[0] != name and node.kind in ("Sub", "Div")
                if node.kind not in ("Add", "Sub", "Mul", "Div") or constant is None or turned:
                    break
                if constant.numel() != 1 and constant.squeeze(0).shape != shape:
                    break
                value = constant.double().flatten()
                shift_O = {"Add": shift_O + value, "Sub": shift_O - value}.get(node.kind, shift_O)
                factor = {"Mul": value, "Div": 1 / value}.get(node.kind, torch.ones(1))
                gain_O, shift_O = gain_O * factor, shift_O * factor
            self.understood.add(node.outputs[0])
        gain = gain_O.view(-1, *(1 for _ in weight.shape[1:]))
        return (weight.double() * gain).float(), shift_O.float()

    def _zeros(self, conv: Node) -> tuple[list[int], list[int]]:
        """Return how many zeros stand before and after each axis, in the convolution or in a step before it."""
        pads = conv.settings.get("pads", [0, 0, 0, 0])
        before, after = pads[:2], pads[2:]
        pad = self.maker.get(conv.inputs[0])
        if pad is None or pad.kind != "Pad":
            return before, after
        listed = pad.settings.get("pads") or self._listed(pad.inputs[1])
        if pad.settings.get("mode", "constant") != "constant" or len(listed) not in (4, 8):
            raise self._other(pad, "this network", "zeros around its maps, as many as the file says")
        if len(listed) == 8:  # before each axis of the batch of maps, then after each
            _, _, top, left, _, _, bottom, right = listed
        else:  # as PyTorch has them, from the last axis on
            left, right, top, bottom = listed
        return [before[0] + top, before[1] + left], [after[0] + bottom, after[1] + right]

    def _listed(self, name: str) -> list[int]:
        """Return the numbers behind a name: a constant, or that of four which PyTorch computes a list of eight from."""
        waiting, seen = [name], set()
        while waiting:
            name = waiting.pop()
            tensor = self.graph.tensors.get(name)
            if tensor is not None and tensor.numel() in (4, 8):
                return [int(number) for number in tensor.flatten()]
            if name not in seen and name in self.maker:
                waiting += self.maker[name].inputs
            seen.add(name)
        return []

    def _constant(self, node: Node, number: int) -> Tensor:
        tensor = self.graph.tensors.get(node.inputs[number]) if len(node.inputs) > number else None
        if tensor is None or not tensor.is_floating_point():
            raise WeightsError(
                f"{self.source}: input {number} of its {node.kind} ({node.outputs[0]}) is no constant; give {FILE}"
            )
        return tensor.float()

    def _other(self, node: Node, name: str, wanted: str) -> WeightsError:
        weight = self.graph.tensors.get(node.inputs[1]) if len(node.inputs) > 1 else None
        shape = "" if weight is None else f" with kernel {tuple(weight.shape)}"
        return WeightsError(
            f"{self.source}: its {node.kind} ({node.outputs[0]}){shape} does not fit {name}, "
            f"which has {wanted}; give {FILE}"
        )
