"""From a name to an encoder: a shelf name, a folder, a hub id, or any of them with `:random` for random weights.

A shelf name of a trained encoder means what `carrara import` made of it, else its authors' files on the hub.

A folder holds config.json (which family, its settings, its card), model.safetensors and README.md. The weights'
identity is in the card, so weights cut short or swapped are noticed. Nothing in a folder is run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from carrara.core.errors import UsageError, WeightsError, did_you_mean
from carrara.core.hashing import sha256_of_json
from carrara.core.io import write_text
from carrara.core.paths import encoders_home
from carrara.core.registry import Entry
from carrara.core.settings import Settings, parse_settings, replace
from carrara.encoders import REGISTRY
from carrara.encoders._base import Card, Encoder, EncoderFamily
from carrara.encoders._hub.official import HEADS, convert_official, fetch_official, fetch_repository
from carrara.encoders._hubert.huggingface import load_hubert_folder
from carrara.formats.weights import load_state_dict_strict, read_tensors, save_tensors, hash_tensors

FORMAT = 1
CONFIG, WEIGHTS, README = "config.json", "model.safetensors", "README.md"
KEYS = ("carrara", "encoder", "settings", "card")
HUB_PATTERNS = ["*.json", "*.safetensors", "pytorch_model.bin", "README.md"]
RANDOM = re.compile(r"^(?P<what>.+):random(-(?P<seed>\d+))?$")
HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")


def build_encoder(name: str, seed: int = 0, changes: Mapping[str, Any] | None = None) -> Encoder:
    """Return the encoder of that shelf name, with random weights where it has any, as a module in training mode.

    Args:
        name: a name on the shelf of encoders.
        seed: of the generator that draws the weights.
        changes: settings to change, by dotted path.

    Raises:
        UsageError: no such name or setting, or a value that does not fit.
    """
    family: EncoderFamily = REGISTRY.get(name)
    card, settings = family.variants[REGISTRY.get_entry(name).name]
    if changes:
        settings = replace(settings, changes, source=name)
        card = family.update_card(card, settings) if family.update_card else card
    return _identified(family.build(settings, card, seed))


def load(spec: str | Path, device: str | torch.device = "cpu") -> Encoder:
    """Return an encoder in evaluation mode.

    Args:
        spec: a shelf name, a folder made by `save_pretrained`, or a hub id `org/name`; `SPEC:random` or
            `SPEC:random-SEED` is the same network with random weights.
        device: where to put it.

    Raises:
        UsageError: nothing of that name, a config that does not fit, or a trained encoder whose weights are not here.
        WeightsError: weights that are not whole or not this network's.
    """
    text = str(spec)
    wish = RANDOM.match(text)
    seed = int(wish["seed"] or 0) if wish else None
    return _find(wish["what"] if wish else text, seed, text).eval().to(device)


def save_pretrained(
    encoder: Encoder, folder: Path, readme: str = "", heads: Mapping[str, Tensor] | None = None
) -> None:
    """Write an encoder as a folder that `load` reads; each file is whole or not there, the config comes last.

    Args:
        encoder: one whose settings belong to a family on the shelf.
        folder: made where it does not exist; a former encoder in it is replaced.
        readme: the model card in Markdown; empty: one made from the card.
        heads: what only pre-training needs, as `carrara.encoders._hub.official.heads` gives it; where there are none, a
            file of a former encoder's heads is removed.

    Raises:
        UsageError: no family on the shelf has this encoder's kind of settings.
        StoreError: the folder cannot be written.
    """
    folder = Path(folder)
    tensors = encoder.state_dict()
    card = encoder.card.model_copy(update={"weights_sha256": hash_tensors(tensors)})
    config = {
        "carrara": FORMAT,
        "encoder": family_entry(encoder.settings).module.rpartition(".")[2].replace("_", "-"),
        "settings": encoder.settings.model_dump(mode="json"),
        "card": card.model_dump(mode="json"),
    }
    save_tensors(tensors, folder / WEIGHTS)
    if heads:
        save_tensors(heads, folder / HEADS)
    else:
        (folder / HEADS).unlink(missing_ok=True)
    write_text(folder / README, readme or model_card(card))
    write_text(folder / CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def model_card(card: Card) -> str:
    """Return a model card in Markdown, with the metadata block that the hub reads."""
    head = ["---", "library_name: carrara", "tags: [audio, music]"]
    if re.fullmatch(r"[A-Za-z0-9.-]+", card.license):
        head.append(f"license: {card.license.lower()}")
    rate = "one answer a clip" if card.frame_rate is None else f"{card.frame_rate:g} frames a second"
    body = [
        f"# {card.name}",
        f"A music-audio encoder: {card.num_layers} layers of {card.dim}, {card.parameters:,} parameters, "
        f"{card.sample_rate} Hz in, {rate} out.",
        f"Trained on: {', '.join(card.trained_on) or 'not stated'}. Licence of the weights: "
        f"{card.license or 'not stated'}. Paper: {card.paper or 'none'}.",
        *([f"In the benchmarks – {card.benchmark_setup}."] if card.benchmark_setup else []),
        f"```python\nimport carrara\n\nencoder = carrara.load({card.name!r})\nlayers = encoder(samples)  "
        f"# [batch, {card.num_layers + 1}, frames, {card.dim}]\n```",
    ]
    return "\n".join([*head, "---", ""]) + "\n\n".join(body) + "\n"


def _find(what: str, seed: int | None, text: str) -> Encoder:
    if what.strip().replace("_", "-") in REGISTRY.entries:
        name = REGISTRY.get_entry(what).name
        family: EncoderFamily = REGISTRY.get(name)
        if seed is None and family.has_weights:
            imported = encoders_home() / name
            if (imported / CONFIG).is_file():
                return _from_folder(imported, name, None)
            return _named(convert_official(name, fetch_official(name, allow_download=False)), name)
        encoder = build_encoder(name, seed or 0)
        return encoder if seed is None else _named(encoder, text)
    folder = Path(what).expanduser()
    if folder.is_dir():
        return _from_folder(folder, folder.resolve().name, seed)
    if folder.exists():
        raise UsageError(
            f"{what}: is a file; give the folder that holds {CONFIG} and {WEIGHTS}, or make one of an official file "
            f"with `carrara import NAME --file {what}`"
        )
    if HUB_ID.match(what) and not what.startswith("."):
        return _from_folder(fetch_repository(what, HUB_PATTERNS), what, seed)
    names = REGISTRY.names()
    raise UsageError(
        f"there is no encoder {what!r} on the shelf and no such folder.{did_you_mean(what, names)} "
        "`carrara ls encoders` shows every encoder."
    )


def _from_folder(folder: Path, name: str, seed: int | None) -> Encoder:
    config = _read_config(folder / CONFIG)
    if "carrara" not in config and ("model_type" in config or "w2v2_config" in config):
        from carrara.encoders import muq
        from carrara.encoders._maest import files

        reader = load_hubert_folder
        if "w2v2_config" in config:
            reader = muq.from_folder
        elif config["model_type"] == files.AST:
            reader = files.from_ast_folder
        encoder = reader(folder, config, name)
        if seed is None:
            return encoder
        return _named(_identified(type(encoder)(encoder.settings, encoder.card, seed)), _random(name, seed))
    config = _checked(config, folder / CONFIG)
    source = str(folder / CONFIG)
    family = _family(str(config["encoder"]), source)
    settings = parse_settings(family.settings, config["settings"], source)
    card = parse_settings(Card, config["card"], source)
    stated = card.weights_sha256
    if seed is not None:
        return _identified(family.build(settings, card.model_copy(update={"name": _random(name, seed)}), seed))
    with torch.device("meta"):
        encoder = family.build(settings, card.model_copy(update={"name": name}), 0)
    weights = folder / WEIGHTS
    tensors = read_tensors(weights)
    load_state_dict_strict(encoder, tensors, str(weights))
    encoder.card = encoder.card.model_copy(update={"weights_sha256": hash_tensors(tensors)})
    if stated and stated != encoder.card.weights_sha256:
        raise WeightsError(
            f"{weights}: not the weights that {CONFIG} beside it describes; fetch or save the folder again"
        )
    return encoder


def _random(name: str, seed: int) -> str:
    return name + (f":random-{seed}" if seed else ":random")


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"{path.parent}: holds no {CONFIG}; give a folder made by save_pretrained, or official files"
        ) from None
    except (OSError, ValueError) as problem:
        raise UsageError(f"{path}: cannot be read ({problem})") from None
    if not isinstance(config, dict):
        raise UsageError(f"{path}: is not the config of an encoder")
    return config


def _checked(config: dict[str, Any], path: Path) -> dict[str, Any]:
    for key in config:
        if key not in KEYS:
            raise UsageError(f"{path}: unknown key {key!r}.{did_you_mean(key, KEYS)}")
    for key in KEYS:
        if key not in config:
            raise UsageError(f"{path}: has no key {key!r}; save the encoder again")
    if config["carrara"] != FORMAT:
        raise UsageError(f"{path}: is of format {config['carrara']}, not {FORMAT}; another Carrara wrote it")
    return config


def _family(name: str, source: str) -> EncoderFamily:
    by_file = {entry.module.rpartition(".")[2].replace("_", "-"): entry.name for entry in REGISTRY.entries.values()}
    if name not in by_file:
        raise UsageError(f"{source}: there is no family of encoders {name!r}.{did_you_mean(name, by_file)}")
    return REGISTRY.get(by_file[name])


def family_entry(settings: Settings) -> Entry:
    """Return the shelf's entry of the family that has settings of this kind.

    Raises:
        UsageError: none has.
    """
    for entry in REGISTRY.entries.values():
        if REGISTRY.get(entry.name).settings is type(settings):
            return entry
    raise UsageError(f"no family of encoders has settings of the kind {type(settings).__name__}, so it cannot be saved")


def _identified(encoder: Encoder) -> Encoder:
    """Return the encoder with its weights' identity on its card; without weights, that of its settings."""
    tensors = encoder.state_dict()
    if any(tensor.is_meta for tensor in tensors.values()) or (encoder.card.weights_sha256 and not tensors):
        return encoder
    made_of = {"name": encoder.card.name, "settings": encoder.settings.model_dump(mode="json")}
    weights = hash_tensors(tensors) if tensors else sha256_of_json(made_of)
    encoder.card = encoder.card.model_copy(update={"weights_sha256": weights})
    return encoder


def _named(encoder: Encoder, name: str) -> Encoder:
    encoder.card = encoder.card.model_copy(update={"name": name.strip().replace("_", "-")})
    return encoder
