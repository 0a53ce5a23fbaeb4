"""Official files as their authors' programs write them, with random weights, for the tests of reading them.

The names of fairseq's tensors are spelled out here from [notes/pretraining §2.3], as pairs of Hugging Face's name and
fairseq's; weights come from transformers' own networks.
"""

import sys
import types

import pytest
import torch
from transformers import Data2VecAudioConfig, Data2VecAudioModel, HubertConfig, HubertModel

from carrara.encoders import REGISTRY

SMALL = {
    "vocab_size": 4,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (24,) * 7,
    "num_conv_pos_embedding_groups": 4,
}
OURS = {"conv_channels": 24, "dim": 32, "num_layers": 2, "num_heads": 4, "ffn_dim": 48, "position_groups": 4}


@pytest.fixture(autouse=True)
def own_home(monkeypatch, tmp_path_factory):
    """Keep the encoders of the person who runs the tests out of them."""
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture
def twin():
    """Return transformers' model of a kind (post, pre, layer, data2vec), drawn wide enough that every layer matters."""

    def make(kind="post"):
        if kind == "data2vec":
            config = Data2VecAudioConfig(**SMALL, num_conv_pos_embeddings=3, conv_pos_kernel_size=7)
            model = Data2VecAudioModel(config)
        else:
            norm = "layer" if kind == "layer" else "group"
            config = HubertConfig(
                **SMALL, num_conv_pos_embeddings=16, do_stable_layer_norm=kind == "pre", feat_extract_norm=norm
            )
            model = HubertModel(config)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        return model.eval()

    return make


@pytest.fixture
def changes():
    """Return the settings of ours that make the same network as `twin`."""

    def make(kind="post"):
        if kind == "data2vec":
            return {**OURS, "position_depth": 3, "position_kernel": 7}
        norm = {
            "norm_placement": "pre" if kind == "pre" else "post",
            "conv_norm": "layer" if kind == "layer" else "group",
        }
        return {**OURS, "position_kernel": 16, **norm}

    return make


def _names(layers, kind="post", depth=5):
    """Return fairseq's name of each of Hugging Face's."""
    both = ("weight", "bias")
    pairs = {"masked_spec_embed": "mask_emb"}
    norm = "2.1" if kind in ("layer", "data2vec") else "2"
    for i in range(7):
        pairs[f"feature_extractor.conv_layers.{i}.conv.weight"] = f"feature_extractor.conv_layers.{i}.0.weight"
        for end in both if norm == "2.1" or i == 0 else ():
            pairs[f"feature_extractor.conv_layers.{i}.layer_norm.{end}"] = (
                f"feature_extractor.conv_layers.{i}.{norm}.{end}"
            )
    for end in both:
        pairs[f"feature_projection.layer_norm.{end}"] = f"layer_norm.{end}"
        pairs[f"feature_projection.projection.{end}"] = f"post_extract_proj.{end}"
        pairs[f"encoder.layer_norm.{end}"] = f"encoder.layer_norm.{end}"
        for i in range(depth if kind == "data2vec" else 0):
            pairs[f"encoder.pos_conv_embed.layers.{i}.conv.{end}"] = f"encoder.pos_conv.{i}.0.{end}"
        for layer in (f"encoder.layers.{i}" for i in range(layers)):
            for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
                pairs[f"{layer}.attention.{projection}.{end}"] = f"{layer}.self_attn.{projection}.{end}"
            pairs[f"{layer}.layer_norm.{end}"] = f"{layer}.self_attn_layer_norm.{end}"
            pairs[f"{layer}.feed_forward.intermediate_dense.{end}"] = f"{layer}.fc1.{end}"
            pairs[f"{layer}.feed_forward.output_dense.{end}"] = f"{layer}.fc2.{end}"
            pairs[f"{layer}.final_layer_norm.{end}"] = f"{layer}.final_layer_norm.{end}"
    if kind != "data2vec":
        conv, theirs = "encoder.pos_conv_embed.conv", "encoder.pos_conv.0"
        pairs[f"{conv}.bias"] = f"{theirs}.bias"
        pairs[f"{conv}.parametrizations.weight.original0"] = f"{theirs}.weight_g"
        pairs[f"{conv}.parametrizations.weight.original1"] = f"{theirs}.weight_v"
    return pairs


class _Dictionary:
    """What fairseq pickles of a label set's codes."""

    def __init__(self, codes):
        self.symbols = ["<s>", "<pad>", "</s>", "<unk>", *map(str, codes)]
        self.count = [1] * len(self.symbols)
        self.indices = {symbol: i for i, symbol in enumerate(self.symbols)}


class _Settings:
    """What an older fairseq pickles of its command line."""

    def __init__(self, **values):
        vars(self).update(values)


class _Node:
    """What omegaconf pickles of a table or of a value in it."""

    def __init__(self, **state):
        vars(self).update(state)


def _omegaconf(table):
    return _Node(_metadata=None, _parent=None, _content={key: _Node(_val=value) for key, value in table.items()})


HOMES = {"fairseq.data.dictionary": _Dictionary, "fairseq.dataclass.utils": _Settings, "omegaconf": _Node}


@pytest.fixture
def fairseq_names():
    """Return the function from a network's size and kind to fairseq's name of each of Hugging Face's."""
    return _names


@pytest.fixture
def write_fairseq(monkeypatch):
    """Return a writer of training checkpoints whose objects belong to modules that are gone when they are read."""

    def write(
        path, state, kind="post", layers=2, depth=3, dictionaries=(), extra=None, zipped=True, cfg=None, args=None
    ):
        names = _names(layers, kind, depth)
        content = {
            "args": _Settings(arch="mert", layers=layers, **(args or {})),
            "cfg": {part: _omegaconf(table) for part, table in cfg.items()} if cfg else None,
            "model": {**{names[name]: tensor for name, tensor in state.items()}, **(extra or {})},
            "criterion": None,
            "optimizer_history": [{"criterion_name": "HubertCriterion", "num_updates": 400_000}],
            "task_state": {"dictionaries": [_Dictionary(codes) for codes in dictionaries]},
            "extra_state": {"epoch": 3},
            "last_optimizer_state": {"state": {0: {"exp_avg": torch.zeros(3)}}},
        }
        with monkeypatch.context() as patch:
            for name in ("fairseq", "fairseq.data", "fairseq.dataclass", *HOMES):
                patch.setitem(sys.modules, name, types.ModuleType(name))
            for name, stub in HOMES.items():
                patch.setattr(stub, "__module__", name)
                setattr(sys.modules[name], stub.__name__, stub)
            torch.save(content, path, _use_new_zipfile_serialization=zipped)
        return path

    return write


@pytest.fixture
def tiny():
    """Return transformers' network of mert-tiny's sizes, without mert-tiny's own weights."""
    config = HubertConfig(
        vocab_size=4, hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512,
        conv_dim=(64,) * 7,
    )  # fmt: skip
    torch.manual_seed(5)
    return HubertModel(config).eval()


@pytest.fixture
def official(monkeypatch):
    """Make mert-tiny an encoder whose authors publish files."""

    def publish(**files):
        variants = REGISTRY.get("mert-tiny").variants
        card, settings = variants["mert-tiny"]
        monkeypatch.setitem(variants, "mert-tiny", (card.model_copy(update={"files": files}), settings))

    return publish
