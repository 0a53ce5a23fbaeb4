"""Weights of EfficientNet-Discogs out of graphs and ONNX files that are made here from Hugging Face's EfficientNet.

As the graph that an exporter would write, step by step, and, where the onnx package is installed, through torch's own
exporter; with either rule for the zeros of strides, with norms folded into the convolutions or not.
"""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import EfficientNetConfig, EfficientNetModel

from carrara.core.errors import WeightsError
from carrara.encoders._effnet.convert import convert_graph
from carrara.encoders.effnet_discogs import ENCODER, EffnetDiscogs, EffnetSettings
from carrara.formats.onnx import OnnxGraph, OnnxNode
from carrara.formats.weights import load_state_dict_strict
from carrara.nn.conv.efficientnet import scale_channels

WIDTH, STYLES = 0.5, 7
SETTINGS = EffnetSettings(width_multiplier=WIDTH, classes=STYLES)
CARD = ENCODER.variants["effnet-discogs"][0]


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def log_mel(patches=4, seed=0):
    return 4 * torch.rand(patches, 128, 96, generator=torch.Generator().manual_seed(seed))


def stirred(body):
    """Draw every number, and let each norm measure what it gets, so that no map vanishes or explodes."""
    generator = torch.Generator().manual_seed(3)
    for part in body.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None  # the plain mean over what it gets
            part.weight.uniform_(0.5, 1.5, generator=generator)
            part.bias.uniform_(-0.5, 0.5, generator=generator)
        elif isinstance(part, nn.Conv2d):
            part.weight.normal_(0, part.weight[0].numel() ** -0.5, generator=generator)
            if part.bias is not None:
                part.bias.uniform_(0.0, 1.0, generator=generator)
    body.train()(log_mel(8)[:, None])
    return body.eval()


class Theirs(nn.Module):
    """The network as its authors would export it: activations and embeddings from `[patches, frames, bands]`."""

    def __init__(self, symmetric=False):
        super().__init__()
        width = scale_channels(1280, WIDTH)
        config = EfficientNetConfig(
            num_channels=1,
            width_coefficient=WIDTH,
            depth_coefficient=1.0,
            hidden_dim=width,
            drop_connect_rate=0.0,
        )
        self.body = stirred(EfficientNetModel(config))
        self.head = nn.Linear(width, STYLES)
        if symmetric:
            for part in self.body.modules():
                if isinstance(part, nn.ZeroPad2d):
                    part.padding = (0, 0, 0, 0)
                if isinstance(part, nn.Conv2d) and part.stride[0] == 2:
                    part.padding = (part.kernel_size[0] // 2,) * 2

    def forward(self, patches):
        embeddings = self.body(patches[:, None]).last_hidden_state.mean(dim=(2, 3))
        return self.head(embeddings).sigmoid(), embeddings


@pytest.fixture(scope="module", params=[False, True], ids=["same", "symmetric"])
def theirs(request):
    with torch.no_grad():
        return Theirs(request.param)


def graph_of(theirs, folded=False, automatic=False, epsilon=1e-3):
    """The graph of Hugging Face's network, with its weights under names that say nothing."""
    nodes, tensors = [], {}

    def store(tensor):
        tensors[f"onnx::{len(tensors)}"] = tensor.detach().clone()
        return f"onnx::{len(tensors) - 1}"

    layers = [part for part in theirs.body.modules() if isinstance(part, nn.Conv2d | nn.BatchNorm2d | nn.ZeroPad2d)]
    pads = [0, 0, 0, 0]
    for number, part in enumerate(layers):
        if isinstance(part, nn.ZeroPad2d):
            # Hugging Face pads only before a stride, though it lists a padding for every depthwise convolution.
            if layers[number + 1].stride[0] == 2:
                left, right, top, bottom = part.padding
                pads = [top, left, bottom, right]
        elif isinstance(part, nn.Conv2d):
            norm = layers[number + 1] if part.bias is None else None
            own = (np.array(part.kernel_size) // 2).tolist() if part.padding == "same" else list(part.padding)
            own = [0, 0] if part.padding == "valid" else own
            settings = {"strides": list(part.stride), "group": part.groups}
            if automatic and part.kernel_size[0] > 1:
                settings["auto_pad"] = "SAME_UPPER"
            else:
                settings["pads"] = [one + other for one, other in zip(pads, own * 2)]
            weight, bias = part.weight, part.bias
            if folded and norm is not None:
                scale = norm.weight / (norm.running_var + norm.eps).sqrt()
                weight, bias = weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale
            inputs = [f"x{number}", store(weight), *([] if bias is None else [store(bias)])]
            nodes.append(OnnxNode("Conv", inputs, [f"y{number}"], settings))
            pads = [0, 0, 0, 0]
            if norm is not None and not folded:
                variance = norm.running_var + norm.eps - epsilon
                constants = [store(value) for value in (norm.weight, norm.bias, norm.running_mean, variance)]
                nodes.append(
                    OnnxNode("BatchNormalization", [f"y{number}", *constants], [f"z{number}"], {"epsilon": epsilon})
                )
            nodes.append(OnnxNode("Sigmoid", [f"z{number}"], [f"s{number}"], {}))
            nodes.append(OnnxNode("Mul", [f"z{number}", f"s{number}"], [f"x{number + 1}"], {}))
    inputs = ["pooled", store(theirs.head.weight), store(theirs.head.bias)]
    nodes.append(OnnxNode("Gemm", inputs, ["logits"], {"transB": 1, "alpha": 1.0, "beta": 1.0}))
    return OnnxGraph(nodes, tensors)


def ours_from(graph):
    with torch.device("meta"):
        encoder = EffnetDiscogs(SETTINGS, CARD)
    load_state_dict_strict(encoder, convert_graph(graph, encoder, "a graph"), "a graph")
    return encoder.eval()


def check_equal(encoder, theirs):
    patches = log_mel(seed=1)
    activations, embeddings = theirs(patches)
    assert embeddings.std(dim=0).min() > 1e-3
    features = encoder.network(patches)[1]
    torch.testing.assert_close(features, embeddings, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(encoder.classifier(features).sigmoid(), activations, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("folded", "epsilon"), [(True, 1e-3), (False, 1e-3), (False, 1e-5)])
def test_weights_are_found_by_their_order(theirs, folded, epsilon):
    check_equal(ours_from(graph_of(theirs, folded, epsilon=epsilon)), theirs)


@pytest.mark.slow
def test_padding_may_be_automatic_or_a_step_by_itself(theirs):
    graph = graph_of(theirs)
    nodes = []
    for node in graph.nodes:
        pads = node.attributes.get("pads", [0])
        if node.op_type == "Conv" and node.attributes["strides"] == [2, 2]:
            graph.tensors["p" + node.inputs[0]] = torch.tensor([0, 0, *pads[:2], 0, 0, *pads[2:]])
            nodes.append(OnnxNode("Pad", [node.inputs[0], "p" + node.inputs[0]], ["q" + node.inputs[0]], {}))
            settings = {key: value for key, value in node.attributes.items() if key != "pads"}
            node = OnnxNode(
                "Conv", ["q" + node.inputs[0], *node.inputs[1:]], node.outputs, settings | {"auto_pad": "VALID"}
            )
        nodes.append(node)
    check_equal(ours_from(OnnxGraph(nodes, graph.tensors)), theirs)
    if not any(
        part.padding[0] for part in theirs.body.modules() if isinstance(part, nn.Conv2d) and part.stride[0] == 2
    ):
        check_equal(ours_from(graph_of(theirs, automatic=True)), theirs)


def test_batch_norms_may_be_stored_as_product_and_sum(theirs):
    """What tf2onnx 1.17 makes of the depthwise convolutions of Keras' EfficientNet."""
    graph = graph_of(theirs)
    nodes = []
    for node in graph.nodes:
        if node.op_type == "BatchNormalization":
            norm = [graph.tensors[name] for name in node.inputs[1:]]
            factor = norm[0] / (norm[3] + node.attributes["epsilon"]).sqrt()
            name = node.outputs[0]
            graph.tensors["f" + name] = factor[None, :, None, None]
            graph.tensors["s" + name] = (norm[1] - norm[2] * factor)[:, None, None]
            nodes.append(OnnxNode("Mul", [node.inputs[0], "f" + name], ["m" + name], {}))
            node = OnnxNode("Add", ["s" + name, "m" + name], [name], {})
        nodes.append(node)
    check_equal(ours_from(OnnxGraph(nodes, graph.tensors)), theirs)


def test_a_dense_layer_may_be_stored_as_product_and_sum():
    theirs = Theirs()
    graph = graph_of(theirs)
    *nodes, dense = graph.nodes
    graph.tensors[dense.inputs[1]] = theirs.head.weight.T
    nodes.append(OnnxNode("MatMul", dense.inputs[:2], ["product"], {}))
    nodes.append(OnnxNode("Add", ["product", dense.inputs[2]], ["logits"], {}))
    check_equal(ours_from(OnnxGraph(nodes, graph.tensors)), theirs)


@pytest.mark.parametrize("folded", [True, False])
def test_a_file_of_torchs_exporter_is_read(theirs, folded, tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    path = tmp_path / "discogs-effnet-bsdynamic-1.onnx"
    mode = torch.onnx.TrainingMode.EVAL if folded else torch.onnx.TrainingMode.PRESERVE
    torch.onnx.export(
        theirs.eval(),
        (torch.zeros(2, 128, 96),),
        path,
        dynamo=False,
        training=mode,
        do_constant_folding=folded,
        input_names=["melspectrogram"],
        output_names=["activations", "embeddings"],
    )
    monkeypatch.setitem(ENCODER.variants, "effnet-discogs", (CARD, SETTINGS))
    with torch.device("meta"):
        encoder = EffnetDiscogs(SETTINGS, CARD)
    load_state_dict_strict(encoder, ENCODER.load_official("effnet-discogs", tmp_path), str(path))
    check_equal(encoder.eval(), theirs)


@pytest.fixture(scope="module")
def graph():
    with torch.no_grad():
        return graph_of(Theirs())


def changed(graph, number, **changes):
    nodes = list(graph.nodes)
    nodes[number] = nodes[number]._replace(**changes)
    return OnnxGraph(nodes, graph.tensors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda graph: OnnxGraph(graph.nodes[4:], graph.tensors), "80 convolutions and 1 dense"),
        (lambda graph: OnnxGraph(graph.nodes[:-1], graph.tensors), "81 convolutions and 0 dense"),
        (lambda graph: changed(graph, 2, op_type="Relu"), "a node Relu"),
        (lambda graph: changed(graph, 2, op_type="Transpose", attributes={"perm": [0, 2, 1]}), "a node Transpose"),
        (lambda graph: changed(graph, 3, inputs=["y0", graph.nodes[0].inputs[1]]), "a node Mul"),
        (lambda graph: changed(graph, 0, attributes={"strides": [1, 1]}), "does not fit network.stem.conv"),
        (lambda graph: changed(graph, 0, attributes={"strides": [2, 2]}), "does not fit .* the padding of"),
        (lambda graph: changed(graph, 0, attributes={"strides": [2, 2], "pads": [1] * 4}), "two padding rules"),
        (lambda graph: changed(graph, 1, inputs=["elsewhere", *graph.nodes[1].inputs[1:]]), "a node BatchNorm"),
        (lambda graph: OnnxGraph(graph.nodes, {}), "is no constant"),
        (lambda graph: changed(graph, -1, attributes={"transB": 1, "alpha": 2.0}), "plain product"),
    ],
    ids=[
        "a convolution less",
        "no classifier",
        "activation",
        "axes",
        "factor",
        "stride",
        "no zeros",
        "two rules",
        "stray norm",
        "no weights",
        "scaled classifier",
    ],
)
def test_another_network_is_refused_in_one_line(graph, change, message):
    with pytest.raises(WeightsError, match=message) as problem:
        ours_from(change(graph))
    assert "a graph" in str(problem.value)
    assert "\n" not in str(problem.value)


def test_a_network_of_another_size_is_named(graph):
    with pytest.raises(WeightsError, match=r"does not fit network\.stem\.conv"):
        convert_graph(graph, EffnetDiscogs(EffnetSettings(width_multiplier=0.1), CARD), "a graph")


def test_a_file_that_is_no_efficientnet_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"discogs-effnet-bsdynamic-1\.onnx: cannot be read"):
        ENCODER.load_official("effnet-discogs", tmp_path)
    (tmp_path / "model.pb").write_bytes(b"\x0a\x03abc")
    with pytest.raises(WeightsError, match=r"model\.pb: not whole or not an ONNX file"):
        ENCODER.load_official("effnet-discogs", tmp_path / "model.pb")
