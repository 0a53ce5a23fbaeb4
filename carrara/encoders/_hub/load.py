"""From a name to an encoder: a registered name, a folder, a hub id, or any of them with `:random` for random weights.

A registered name of a trained encoder means what `carrara import` made of it, else its authors' files on the hub.

A folder holds config.json (family, settings, card), model.safetensors and README.md. The card holds the weights' hash,
so weights that were cut short or exchanged are noticed. Nothing in a folder is run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from carrara.core.download import download_from_hub
from carrara.core.errors import UsageError, WeightsError, did_you_mean
from carrara.core.hashing import sha256_of_json
from carrara.core.io import atomic_write, write_text
from carrara.core.paths import encoders_home
from carrara.core.registry import Entry
from carrara.core.settings import Settings, parse_settings, replace
from carrara.core.strict_json import read_json
from carrara.encoders import REGISTRY
from carrara.encoders._base import Card, Encoder, EncoderFamily, build_with_weights
from carrara.encoders._fused import fuse
from carrara.encoders._hub.official import HEADS, convert_official, fetch_official
from carrara.encoders._hub.spec import CONFIG, INT8, LATE, parse_encoder_spec, require_config, split_fusion
from carrara.encoders._hubert.huggingface import STANDARDISED, load_hubert_folder
from carrara.encoders._text.tower import TOKENIZER, TextEncoder, read_tokenizer
from carrara.formats.weights import hash_tensors, load_state_dict_strict, read_tensors, release_memory, save_tensors
from carrara.nn.conv.waveform_frontend import WaveformFrontend
from carrara.nn.device import pick_device
from carrara.nn.linear import OnednnLinear

INT8_VERSION = 1  # of 0 only linear layers were in int8
WEIGHTS, README = "model.safetensors", "README.md"
HUB_PATTERNS = ["*.json", "*.safetensors", "pytorch_model*.bin", "README.md"]


class _FolderConfig(Settings):
    """config.json of a folder; `carrara` is the version of the format, `encoder` the family."""

    carrara: Literal[1]
    encoder: str
    settings: dict[str, Any]
    card: Card


def build_encoder(name: str, seed: int = 0, changes: Mapping[str, Any] | None = None) -> Encoder:
    """Return the encoder of that registered name with random weights, if it has any, in training mode.

    Args:
        name: A registered name.
        seed: Of the generator that draws the weights.
        changes: Settings to change, by dotted path.

    Raises:
        UsageError: There is no such name or setting, or a value is invalid.
    """
    family: EncoderFamily = REGISTRY.get(name)
    card, settings = family.variants[REGISTRY.get_entry(name).name]
    if changes:
        settings = replace(settings, changes, source=name)
        card = family.update_card(card, settings) if family.update_card else card
    return _with_hash(family.build(settings, card, seed))


def load(spec: str | Path, device: str | torch.device = "cpu") -> Encoder:
    """Return an encoder in evaluation mode.

    Args:
        spec: A registered name, a folder made by `save_pretrained`, or a hub id `org/name`. `SPEC:random` or
            `SPEC:random-SEED` is the same network with random weights; after either, `:int8` multiplies its linear
            layers and waveform front end in int8, on a CPU; `A+B` and `A+B:late` are a fusion of two or more, for
            `carrara bench` only.
        device: Where to put it: auto, cpu, cuda, cuda:1, mps.

    Raises:
        UsageError: Nothing has that name, there is no such device, a config is invalid, or the weights are not on this
            machine.
        WeightsError: The weights are damaged or another network's.
    """
    if not isinstance(spec, str | Path):
        raise UsageError(f"load takes a name, a folder or a hub id, not a value of the type {type(spec).__name__}")
    device = pick_device(device)
    if parts := split_fusion(spec):
        return fuse([load(part, device) for part in parts], str(spec).endswith(LATE), device)
    parsed = parse_encoder_spec(spec)
    if parsed.kind == "registered":
        encoder = _load_registered(parsed.source, parsed.seed, str(spec))
    elif parsed.kind == "folder":
        encoder = _load_folder(Path(parsed.source), Path(parsed.source).resolve().name, parsed.seed)
    else:
        encoder = _load_folder(download_from_hub(parsed.source, HUB_PATTERNS), parsed.source, parsed.seed)
    return (_quantize(encoder) if parsed.is_int8 else encoder).eval().to(device)


def with_settings(encoder: Encoder, changes: Mapping[str, Any], source: str = "--set") -> Encoder:
    """Return an encoder with the same weights and other settings, in evaluation mode.

    Args:
        encoder: A loaded encoder.
        changes: Settings by dotted path, for example `{"tokens": "frames"}` for a MAEST.
        source: Name of the changes in messages.

    Raises:
        UsageError: There is no such setting, a value is invalid, or the settings need other weights.
    """
    if not changes:
        return encoder
    settings = replace(encoder.settings, changes, source)
    family: EncoderFamily = REGISTRY.get(family_entry(encoder.settings).name)
    card = family.update_card(encoder.card, settings) if family.update_card else encoder.card
    with torch.device("meta" if family.has_weights else "cpu"):
        changed = family.build(settings, card, 0)
    try:
        load_state_dict_strict(changed, encoder.state_dict(), encoder.card.name)
    except WeightsError as problem:
        raise UsageError(f"{source}: {', '.join(changes)} would need other weights ({problem})") from None
    changed.card = changed.card.model_copy(update={"weights_sha256": encoder.card.weights_sha256})
    if isinstance(changed, TextEncoder) and isinstance(encoder, TextEncoder):
        changed.tokenizer_json = encoder.tokenizer_json
    is_int8 = any(isinstance(each, OnednnLinear) and each.weight_OI is not None for each in encoder.modules())
    return (_quantize(changed) if is_int8 else changed).eval()


def save_pretrained(
    encoder: Encoder, folder: Path, readme: str = "", heads: Mapping[str, Tensor] | None = None
) -> None:
    """Write an encoder as a folder that `load` reads. Each file is written atomically, the config last.

    Args:
        encoder: An encoder whose settings belong to a registered family.
        folder: Created if missing; another encoder in it is replaced.
        readme: The model card in Markdown; by default `model_card`.
        heads: What only pre-training needs, as `carrara.encoders._hub.official.read_heads` returns it. Without heads,
            the folder's former file of heads is removed.

    Raises:
        UsageError: No registered family has this encoder's class of settings.
        StoreError: The folder cannot be written.
    """
    folder = Path(folder)
    tensors = encoder.state_dict()
    card = encoder.card.model_copy(update={"weights_sha256": hash_tensors(tensors)})
    config = _FolderConfig(
        carrara=1,
        encoder=_family_name(family_entry(encoder.settings)),
        settings=encoder.settings.model_dump(mode="json"),
        card=card,
    )
    save_tensors(tensors, folder / WEIGHTS)
    if heads:
        save_tensors(heads, folder / HEADS)
    else:
        (folder / HEADS).unlink(missing_ok=True)
    tokenizer_json = encoder.tokenizer_json if isinstance(encoder, TextEncoder) else None
    if tokenizer_json is None:
        (folder / TOKENIZER).unlink(missing_ok=True)
    else:
        with atomic_write(folder / TOKENIZER) as tmp:
            tmp.write_bytes(tokenizer_json)
    write_text(folder / README, readme or model_card(card))
    write_text(folder / CONFIG, json.dumps(config.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n")


def model_card(card: Card) -> str:
    """Return a model card in Markdown, with the metadata block that the hub reads."""
    head = ["---", "library_name: carrara", "tags: [audio, music]"]
    if re.fullmatch(r"[A-Za-z0-9.-]+", card.license):
        head.append(f"license: {card.license.lower()}")
    rate = "one vector a clip" if card.frame_rate is None else f"{card.frame_rate:g} frames a second"
    body = [
        f"# {card.name}",
        f"A music-audio encoder: {card.num_layers} layers of {card.dim}, {card.parameters:,} parameters, "
        f"{card.sample_rate} Hz in, {rate} out.",
        f"Trained on: {', '.join(card.trained_on) or 'not stated'}. Licence of the weights: "
        f"{card.license or 'not stated'}. Paper: {card.paper or 'none'}.",
        *([f"Normalisation: {STANDARDISED[card.is_standardised]}."] if card.is_standardised is not None else []),
        *([f"In the benchmarks – {card.benchmark_setup}."] if card.benchmark_setup else []),
        f"```python\n{usage_snippet(card)}\n```",
    ]
    return "\n".join([*head, "---", ""]) + "\n\n".join(body) + "\n"


def usage_snippet(card: Card, predicts_tags: bool = False) -> str:
    """Return Python that encodes five seconds, for a model card; it runs as it is in the folder of the encoder."""
    call = "probabilities = encoder.predict_tags(samples)  # [batch, tags]"
    if not predicts_tags:
        frames = "1" if card.frame_rate is None else "frames"
        call = f"layers = encoder(samples)  # [batch, {card.num_layers + 1}, {frames}, {card.dim}]"
    lines = (
        "import carrara",
        "import torch",
        "",
        'encoder = carrara.load(".")  # this folder, or its path, or its name on the hub',
        f"samples = torch.randn(1, {5 * card.sample_rate})  # float32 [batch, samples], mono, {card.sample_rate} Hz",
        call,
    )
    return "\n".join(lines)


def family_entry(settings: Settings) -> Entry:
    """Return the registry's entry of the family that has this class of settings.

    Raises:
        UsageError: There is none.
    """
    for entry in REGISTRY.entries.values():
        if REGISTRY.get(entry.name).settings is type(settings):
            return entry
    raise UsageError(f"no family of encoders has settings of the kind {type(settings).__name__}, so it cannot be saved")


def _load_registered(name: str, seed: int | None, spec: str) -> Encoder:
    family: EncoderFamily = REGISTRY.get(name)
    if seed is not None:
        return _with_name(_untrained(build_encoder(name, seed)), spec)
    if not family.has_weights:
        return build_encoder(name)
    imported = encoders_home() / name
    if (imported / CONFIG).is_file():
        return _load_folder(imported, name, None)
    return _with_name(convert_official(name, fetch_official(name, allow_download=False)), name)


def _load_folder(folder: Path, name: str, seed: int | None) -> Encoder:
    config = _read_config(folder / CONFIG)
    random_name = f"{name}:random" + (f"-{seed}" if seed else "")
    if "carrara" not in config and not {"model_type", "w2v2_config", "mulan"}.isdisjoint(config):
        from carrara.encoders import laion_clap, mel_conformer, muq, muq_mulan
        from carrara.encoders._maest import files

        load_official_folder = load_hubert_folder
        if "w2v2_config" in config:
            load_official_folder = muq.load_muq_folder
        elif "mulan" in config:
            load_official_folder = muq_mulan.load_mulan_folder
        elif "subsampling_channels" in config:
            load_official_folder = mel_conformer.load_mert2_folder
        elif config["model_type"] == files.AST:
            load_official_folder = files.load_ast_folder
        elif config["model_type"] == "clap":
            load_official_folder = laion_clap.load_clap_folder
        encoder = load_official_folder(folder, config, name)
        if seed is None:
            return encoder
        return _with_name(_untrained(_with_hash(type(encoder)(encoder.settings, encoder.card, seed))), random_name)
    source = str(folder / CONFIG)
    parsed = parse_settings(_FolderConfig, config, source)
    families = {_family_name(entry): entry.name for entry in REGISTRY.entries.values()}
    if parsed.encoder not in families:
        raise UsageError(
            f"{source}: there is no family of encoders {parsed.encoder!r}.{did_you_mean(parsed.encoder, families)}"
        )
    family: EncoderFamily = REGISTRY.get(families[parsed.encoder])
    settings, card = parse_settings(family.settings, parsed.settings, source), parsed.card
    if seed is not None:
        return _untrained(_with_hash(family.build(settings, card.model_copy(update={"name": random_name}), seed)))
    weights = folder / WEIGHTS
    if not weights.exists():
        raise WeightsError(
            f"{weights}: is not there; weights of a folder with this {CONFIG} have this name: copy the file here, or "
            "save the encoder again (encoder.save_pretrained; after a training, `carrara pretrain … --resume`)"
        )
    named_card = card.model_copy(update={"name": name})
    encoder = build_with_weights(family.build, settings, named_card, read_tensors(weights), str(weights))
    if card.weights_sha256 and card.weights_sha256 != encoder.card.weights_sha256:
        raise WeightsError(
            f"{weights}: not the weights that {CONFIG} beside it describes; fetch or save the folder again"
        )
    if isinstance(encoder, TextEncoder):
        encoder.tokenizer_json = read_tokenizer(card, folder)
    return encoder


def _read_config(path: Path) -> dict[str, Any]:
    require_config(path.parent)
    try:
        config = read_json(path)
    except (OSError, ValueError) as problem:
        raise UsageError(f"{path}: cannot be read ({problem})") from None
    if not isinstance(config, dict):
        raise UsageError(f"{path}: is not the config of an encoder")
    return config


def _family_name(entry: Entry) -> str:
    return entry.module.rpartition(".")[2].replace("_", "-")


def _with_hash(encoder: Encoder) -> Encoder:
    """Return the encoder with its weights' hash in its card; without weights, the hash of its settings."""
    tensors = encoder.state_dict()
    if any(tensor.is_meta for tensor in tensors.values()) or (encoder.card.weights_sha256 and not tensors):
        return encoder
    settings = {"name": encoder.card.name, "settings": encoder.settings.model_dump(mode="json")}
    weights_sha256 = hash_tensors(tensors) if tensors else sha256_of_json(settings)
    encoder.card = encoder.card.model_copy(update={"weights_sha256": weights_sha256})
    return encoder


def _quantize(encoder: Encoder) -> Encoder:
    """Let an encoder's linear layers and waveform front end multiply in int8, and say so in its name."""
    layers = [module for module in encoder.modules() if isinstance(module, OnednnLinear | WaveformFrontend)]
    if not any(isinstance(layer, OnednnLinear) for layer in layers):
        raise UsageError(f"{encoder.card.name}: has no linear layers that {INT8} would make faster; leave {INT8} out")
    for layer in layers:
        layer.quantize()
        for parameter in layer.parameters():
            release_memory(parameter)
    changes: dict[str, Any] = {"name": encoder.card.name.removesuffix(INT8) + INT8}
    if not encoder.card.name.endswith(INT8):
        changes["output_version"] = encoder.card.output_version + INT8_VERSION
    encoder.card = encoder.card.model_copy(update=changes)
    return encoder


def _untrained(encoder: Encoder) -> Encoder:
    """Take from the card of an encoder with random weights what says how other weights were trained."""
    training = {"trained_on": (), "training_hours": None, "pretraining_task": "", "context_seconds": None}
    encoder.card = encoder.card.model_copy(update=training)
    return encoder


def _with_name(encoder: Encoder, name: str) -> Encoder:
    encoder.card = encoder.card.model_copy(update={"name": name.strip().replace("_", "-")})
    return encoder
