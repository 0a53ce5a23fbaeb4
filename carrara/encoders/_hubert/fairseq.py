"""fairseq's training checkpoints of HuBERT, MERT, data2vec and Music2Vec, read without fairseq.

Every name is mapped as a whole, never by a part of it [notes/pretraining §2.3]: `layer_norm`, `encoder.layer_norm` and
each layer's norms differ by their position only. What is no part of the encoder keeps fairseq's names, so that
pre-training can continue: final projections, label embeddings, the CQT head, data2vec's teacher (`_ema`, whose names
are relative to the encoder) and the dictionaries that map each row of the label embeddings to a class. The fixed
kernels of the CQT (176 MB) are no weights and are dropped. Any other name is left as it is, so that strict loading
reports it. Half precision becomes single.

Several of these networks have equal shapes. So what the run's settings (`cfg`, or `args` in an older fairseq) and its
label embeddings say is compared with how the expected network was trained.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from carrara.core.errors import WeightsError
from carrara.formats.safe_pickle import UnknownObject
from carrara.formats.weights import NEW_DIRECTION, NEW_GAIN, OLD_DIRECTION, OLD_GAIN

_END = r"\.(weight|bias)"
_GAIN = r"\.(weight_g|weight_v|parametrizations\.weight\.original[01]|weight|bias)"
_LAYER = r"encoder\.layers\.(\d+)\."
_NAMES = {
    r"mask_emb": r"masked_spec_embed",
    r"feature_extractor\.conv_layers\.(\d+)\.0" + _END: r"feature_extractor.conv_layers.\1.conv.\2",
    r"feature_extractor\.conv_layers\.(\d+)\.2(?:\.1)?" + _END: r"feature_extractor.conv_layers.\1.layer_norm.\2",
    r"layer_norm" + _END: r"feature_projection.layer_norm.\1",
    r"post_extract_proj" + _END: r"feature_projection.projection.\1",
    r"encoder\.pos_conv\.0" + _GAIN: r"encoder.pos_conv_embed.conv.\1",
    r"encoder\.pos_conv\.(\d+)\.0" + _END: r"encoder.pos_conv_embed.layers.\1.conv.\2",
    r"encoder\.layer_norm" + _END: r"encoder.layer_norm.\1",
    _LAYER + r"self_attn\.([qkv]|out)_proj" + _END: r"encoder.layers.\1.attention.\2_proj.\3",
    _LAYER + r"self_attn_layer_norm" + _END: r"encoder.layers.\1.layer_norm.\2",
    _LAYER + r"fc1" + _END: r"encoder.layers.\1.feed_forward.intermediate_dense.\2",
    _LAYER + r"fc2" + _END: r"encoder.layers.\1.feed_forward.output_dense.\2",
    _LAYER + r"final_layer_norm" + _END: r"encoder.layers.\1.final_layer_norm.\2",
}
NAME_PATTERNS = [(re.compile(pattern), replacement) for pattern, replacement in _NAMES.items()]
FINE_TUNED_PREFIX = re.compile(r"^w2v_encoder\.w2v_model\.")
HEAD_NAMES = re.compile(
    r"(final_proj|final_projs|label_embs_concat|logit_temp_list|encoder_cqt_model|encoder_mel_model)\b"
)
FIXED_NAMES = re.compile(r"encoder_(cqt|mel)_model\.spec_layer\.")
FINE_TUNED_HEAD = re.compile(r"^w2v_encoder\.proj\b")
TEACHER = "_ema"
DICTIONARY = "dictionaries."
LABELS = "label_embs_concat"
# Four special symbols and then the classes of each codebook [notes/pretraining §2.3]; those of v0 are not published.
LABEL_ROWS = {"mert-v1-95m": 8224, "mert-v1-330m": 8224, "hubert-base": 504}
RUN_SETTINGS = {"sample_rate": "task", "layer_norm_first": "model", "activation_fn": "model"}  # and their part of `cfg`
OTHER_SPELLING = {
    OLD_GAIN: NEW_GAIN,
    NEW_GAIN: OLD_GAIN,
    OLD_DIRECTION: NEW_DIRECTION,
    NEW_DIRECTION: OLD_DIRECTION,
}


@dataclass(frozen=True)
class HubertFile:
    """The tensors of an official file or folder.

    Attributes:
        network: The encoder's tensors by the network's names, and tensors of unknown names.
        heads: What only pre-training needs, by fairseq's names: `final_proj.weight`, `label_embs_concat`,
            `encoder_cqt_model.fc.weight`, `_ema.layers.0.fc1.weight`, …; and `dictionaries.0`, …, int64: the class of
            each row of a label set, -1 for special symbols (the first four rows) and fillers.
    """

    network: dict[str, Tensor]
    heads: dict[str, Tensor]


def is_fairseq(content: Any) -> bool:
    """Return whether a file's content is a training checkpoint: it has weights under `model`."""
    return isinstance(content, Mapping) and isinstance(content.get("model"), Mapping)


def parse_fairseq(content: Mapping[str, Any], source: str) -> HubertFile:
    """Return the network and the heads of a training checkpoint.

    Raises:
        WeightsError: A value under `model` is not a tensor, or two names mean the same tensor.
    """
    network: dict[str, Tensor] = {}
    heads: dict[str, Tensor] = {}
    for name, value in content["model"].items():
        if name == TEACHER and isinstance(value, Mapping):
            heads.update({f"{TEACHER}.{inner}": _to_single(tensor, inner, source) for inner, tensor in value.items()})
        elif FIXED_NAMES.match(name) or FINE_TUNED_HEAD.match(name) or value is None:
            continue
        elif HEAD_NAMES.match(name):
            heads[name] = _to_single(value, name, source)
        else:
            add_tensor(network, map_fairseq_name(name), _to_single(value, name, source), source)
    heads.update(_dictionaries(content))
    return HubertFile(network, heads)


def map_fairseq_name(name: str) -> str:
    """Return the network's name of one of fairseq's tensors; unknown names are unchanged."""
    bare = FINE_TUNED_PREFIX.sub("", name)
    for pattern, replacement in NAME_PATTERNS:
        if match := pattern.fullmatch(bare):
            return match.expand(replacement)
    return name


def add_tensor(tensors: dict[str, Tensor], name: str, tensor: Tensor, source: str) -> None:
    """Add a tensor under its name in the network.

    Raises:
        WeightsError: There is one of that name, or of the other spelling of a weight-normalised convolution's name.
    """
    spellings = {
        name, *(name.removesuffix(end) + other for end, other in OTHER_SPELLING.items() if name.endswith(end))
    }  # fmt: skip
    if spellings & tensors.keys():
        raise WeightsError(f"{source}: two tensors in it mean {name}; remove the one that is not the encoder's")
    tensors[name] = tensor


def run_settings(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a checkpoint's run that describe its network: those of `RUN_SETTINGS` that it has."""
    settings = {}
    for key, part in RUN_SETTINGS.items():
        for holder in (_entry(content.get("cfg"), part), content.get("args")):
            value = _entry(holder, key)
            if isinstance(value, (bool, int, float, str)):
                settings[key] = value
                break
    return settings


def count_label_rows(content: Mapping[str, Any]) -> int | None:
    """Return the number of rows of a checkpoint's label embeddings, all codebooks together; None if it has none."""
    labels = content["model"].get(LABELS)
    return len(labels) if isinstance(labels, Tensor) and labels.dim() else None


def check_run(content: Mapping[str, Any], trained: Mapping[str, Any], name: str, source: str) -> None:
    """Refuse the checkpoint of another network with the same shapes.

    Args:
        content: Content of a checkpoint.
        trained: Settings of the expected network's run, by fairseq's names.
        name: The expected variant.
        source: Name of the file in the message.

    Raises:
        WeightsError: The run's settings or the number of labels differ.
    """
    for key, value in run_settings(content).items():
        if value != trained[key]:
            raise WeightsError(f"{source}: not {name}: its run's {key} is {value}, and {trained[key]} of {name}")
    rows = count_label_rows(content)
    expected = LABEL_ROWS.get(name)
    others = sorted(other for other, known in LABEL_ROWS.items() if known == rows)
    if rows is not None and (rows != expected if expected else others):
        hint = f"; {' and '.join(others)} has so many" if others else ""
        raise WeightsError(
            f"{source}: not {name}: its {LABELS} has {rows} rows{f', not {expected}' * bool(expected)}{hint}"
        )


def _entry(holder: Any, key: str) -> Any:
    """Return an entry of a dictionary, or of a stand-in for argparse's or omegaconf's; None if there is none."""
    table = holder.state if isinstance(holder, UnknownObject) else holder
    if isinstance(table, Mapping) and isinstance(table.get("_content"), Mapping):
        table = table["_content"]
    value = table.get(key) if isinstance(table, Mapping) else None
    if isinstance(value, UnknownObject) and isinstance(value.state, Mapping) and "_val" in value.state:
        value = value.state["_val"]
    if isinstance(value, UnknownObject) and len(value.arguments) == 1:  # a member of an enumeration
        value = value.arguments[0]
    return value


def _to_single(value: Any, name: str, source: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise WeightsError(f"{source}: {name} is not a tensor, so this is no checkpoint of a HuBERT or data2vec")
    return value.float() if value.is_floating_point() else value


def _dictionaries(content: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    state = content.get("task_state")
    dictionaries = state.get("dictionaries") if isinstance(state, Mapping) else None
    for i, dictionary in enumerate(dictionaries if isinstance(dictionaries, list) else []):
        pickled = getattr(dictionary, "state", None)
        symbols = pickled.get("symbols") if isinstance(pickled, Mapping) else None
        if isinstance(symbols, list) and all(isinstance(symbol, str) for symbol in symbols):
            classes = [int(symbol) if symbol.isdecimal() else -1 for symbol in symbols]
            yield f"{DICTIONARY}{i}", torch.tensor(classes, dtype=torch.int64)
