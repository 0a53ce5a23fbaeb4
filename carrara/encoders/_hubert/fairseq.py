"""fairseq's training checkpoints of HuBERT, MERT, data2vec and Music2Vec, read without fairseq.

Every name is mapped whole (pretraining.md 2.3), never by a part of it: `layer_norm`, `encoder.layer_norm` and each
layer's norms differ by their place only. What is no part of the network is kept apart under fairseq's own names, so
that pre-training can go on: final projections, label embeddings, the CQT head, the teacher of data2vec (`_ema`, whose
names begin inside the encoder) and the dictionaries that say which code each row of the label embeddings stands for.
The fixed kernels of the CQT (176 MB) are not weights and are left out. A name that is neither stays as it is, so that
strict loading tells of it. Half precision becomes single.

Several of these networks have equal shapes. What the run's settings (`cfg`, or `args` of an older fairseq) and its
label embeddings say of it is compared with what the wanted one was trained with.
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

END = r"\.(weight|bias)"
GAIN = r"\.(weight_g|weight_v|parametrizations\.weight\.original[01]|weight|bias)"
LAYER = r"encoder\.layers\.(\d+)\."
OURS = {
    r"mask_emb": r"masked_spec_embed",
    r"feature_extractor\.conv_layers\.(\d+)\.0" + END: r"feature_extractor.conv_layers.\1.conv.\2",
    r"feature_extractor\.conv_layers\.(\d+)\.2(?:\.1)?" + END: r"feature_extractor.conv_layers.\1.layer_norm.\2",
    r"layer_norm" + END: r"feature_projection.layer_norm.\1",
    r"post_extract_proj" + END: r"feature_projection.projection.\1",
    r"encoder\.pos_conv\.0" + GAIN: r"encoder.pos_conv_embed.conv.\1",
    r"encoder\.pos_conv\.(\d+)\.0" + END: r"encoder.pos_conv_embed.layers.\1.conv.\2",
    r"encoder\.layer_norm" + END: r"encoder.layer_norm.\1",
    LAYER + r"self_attn\.([qkv]|out)_proj" + END: r"encoder.layers.\1.attention.\2_proj.\3",
    LAYER + r"self_attn_layer_norm" + END: r"encoder.layers.\1.layer_norm.\2",
    LAYER + r"fc1" + END: r"encoder.layers.\1.feed_forward.intermediate_dense.\2",
    LAYER + r"fc2" + END: r"encoder.layers.\1.feed_forward.output_dense.\2",
    LAYER + r"final_layer_norm" + END: r"encoder.layers.\1.final_layer_norm.\2",
}
RULES = [(re.compile(pattern), ours) for pattern, ours in OURS.items()]
FINE_TUNED = re.compile(r"^w2v_encoder\.w2v_model\.")
HEADS = re.compile(r"(final_proj|final_projs|label_embs_concat|logit_temp_list|encoder_cqt_model|encoder_mel_model)\b")
FIXED = re.compile(r"encoder_(cqt|mel)_model\.spec_layer\.")
FINE_TUNED_HEAD = re.compile(r"^w2v_encoder\.proj\b")
TEACHER = "_ema"
DICTIONARY = "dictionaries."
LABELS = "label_embs_concat"
# Four special symbols and then the classes of each book (pretraining.md 2.3); v0's are not published.
LABEL_ROWS = {"mert-v1-95m": 8224, "mert-v1-330m": 8224, "hubert-base": 504}
SAID = {"sample_rate": "task", "layer_norm_first": "model", "activation_fn": "model"}
SPELLINGS = {
    OLD_GAIN: NEW_GAIN,
    NEW_GAIN: OLD_GAIN,
    OLD_DIRECTION: NEW_DIRECTION,
    NEW_DIRECTION: OLD_DIRECTION,
}


@dataclass(frozen=True)
class FairseqCheckpoint:
    """What a checkpoint holds.

    Attributes:
        network: the encoder's tensors by our names, and any of an unknown name by that.
        heads: what only pre-training needs, by fairseq's names: `final_proj.weight`, `label_embs_concat`,
            `encoder_cqt_model.fc.weight`, `_ema.layers.0.fc1.weight`, …; and `dictionaries.0`, …, int64: the code that
            each row of a label set stands for, -1 for special marks (the first four rows) and fillers.
    """

    network: dict[str, Tensor]
    heads: dict[str, Tensor]


def is_fairseq(content: Any) -> bool:
    """Return whether an opened file is a training checkpoint: a table of weights under `model`, among other things."""
    return isinstance(content, Mapping) and isinstance(content.get("model"), Mapping)


def parse_fairseq(content: Mapping[str, Any], source: str) -> FairseqCheckpoint:
    """Return the network and the heads of an opened checkpoint.

    Raises:
        WeightsError: something under `model` is not a tensor, or two names in it mean the same.
    """
    network: dict[str, Tensor] = {}
    heads: dict[str, Tensor] = {}
    for name, value in content["model"].items():
        if name == TEACHER and isinstance(value, Mapping):
            heads.update({f"{TEACHER}.{inner}": _single(tensor, inner, source) for inner, tensor in value.items()})
        elif FIXED.match(name) or FINE_TUNED_HEAD.match(name) or value is None:
            continue
        elif HEADS.match(name):
            heads[name] = _single(value, name, source)
        else:
            add_tensor(network, map_fairseq_name(name), _single(value, name, source), source)
    heads.update(_dictionaries(content))
    return FairseqCheckpoint(network, heads)


def map_fairseq_name(name: str) -> str:
    """Return our name of a tensor of the network; an unknown one unchanged."""
    bare = FINE_TUNED.sub("", name)
    for pattern, replacement in RULES:
        if found := pattern.fullmatch(bare):
            return found.expand(replacement)
    return name


def add_tensor(found: dict[str, Tensor], name: str, tensor: Tensor, source: str) -> None:
    """Add a tensor under the name that it has in the network.

    Raises:
        WeightsError: another one has that name already, or the other spelling of a weight-normalised convolution's.
    """
    twins = {name, *(name.removesuffix(end) + other for end, other in SPELLINGS.items() if name.endswith(end))}
    if twins & found.keys():
        raise WeightsError(f"{source}: two tensors in it mean {name}; take out the one that is not the encoder's")
    found[name] = tensor


def run_settings(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint's run says of its network: those of `SAID` that it has, by fairseq's names."""
    found = {}
    for key, part in SAID.items():
        for holder in (_inside(content.get("cfg"), part), content.get("args")):
            value = _inside(holder, key)
            if isinstance(value, (bool, int, float, str)):
                found[key] = value
                break
    return found


def count_label_rows(content: Mapping[str, Any]) -> int | None:
    """Return how many rows a checkpoint's label embeddings have, all books together; none where it has none."""
    found = content["model"].get(LABELS)
    return len(found) if isinstance(found, Tensor) and found.dim() else None


def check_run(content: Mapping[str, Any], trained: Mapping[str, Any], name: str, source: str) -> None:
    """Refuse the checkpoint of another network of the same shapes.

    Args:
        content: an opened checkpoint.
        trained: what the run of the wanted network says, by fairseq's names.
        name: of the wanted variant.
        source: what the message calls the file.

    Raises:
        WeightsError: it says otherwise, or learnt other labels.
    """
    for key, value in run_settings(content).items():
        if value != trained[key]:
            raise WeightsError(f"{source}: not {name}: its run's {key} is {value}, and {trained[key]} of {name}")
    rows = count_label_rows(content)
    wanted = LABEL_ROWS.get(name)
    other = sorted(other for other, known in LABEL_ROWS.items() if known == rows)
    if rows is not None and (rows != wanted if wanted else other):
        hint = f"; {' and '.join(other)} has so many" if other else ""
        raise WeightsError(
            f"{source}: not {name}: its {LABELS} has {rows} rows{f', not {wanted}' * bool(wanted)}{hint}"
        )


def _inside(holder: Any, key: str) -> Any:
    """Return an entry of a table or of a stand-in for argparse's or omegaconf's; none where there is none."""
    table = holder.state if isinstance(holder, UnknownObject) else holder
    if isinstance(table, Mapping) and isinstance(table.get("_content"), Mapping):
        table = table["_content"]
    value = table.get(key) if isinstance(table, Mapping) else None
    if isinstance(value, UnknownObject) and isinstance(value.state, Mapping) and "_val" in value.state:
        value = value.state["_val"]
    if isinstance(value, UnknownObject) and len(value.arguments) == 1:  # an enumeration's member
        value = value.arguments[0]
    return value


def _single(value: Any, name: str, source: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise WeightsError(f"{source}: {name} is not a tensor, so this is no checkpoint of a HuBERT or data2vec")
    return value.float() if value.is_floating_point() else value


def _dictionaries(content: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    state = content.get("task_state")
    found = state.get("dictionaries") if isinstance(state, Mapping) else None
    for i, dictionary in enumerate(found if isinstance(found, list) else []):
        kept = getattr(dictionary, "state", None)
        symbols = kept.get("symbols") if isinstance(kept, Mapping) else None
        if isinstance(symbols, list) and all(isinstance(symbol, str) for symbol in symbols):
            codes = [int(symbol) if symbol.isdecimal() else -1 for symbol in symbols]
            yield f"{DICTIONARY}{i}", torch.tensor(codes, dtype=torch.int64)
