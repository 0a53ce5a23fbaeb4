"""The model card of a pre-training run: how the encoder was trained, on what, how far, and how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from carrara.core.storage import absolute, normalize
from carrara.data import REGISTRY as DATA
from carrara.data.folder import FolderDataset
from carrara.encoders._base import Card
from carrara.encoders._hub.load import usage_snippet
from carrara.pretrain.metrics_log import LOG_FILE, PROBES, read_metrics, read_probes
from carrara.pretrain.objectives._base import Objective


def trained_card(objective: Objective, card: Card) -> Card:
    """Return a card with what the run trains the encoder on; its hours are unknown if it starts from other weights."""
    recipe, hours = objective.recipe, objective.corpus.seconds / 3600
    facts = {
        "training_hours": None if objective.initialization.record else (hours, hours),
        "pretraining_task": recipe.pretraining_task,
        "context_seconds": recipe.crop_seconds,
    }
    return card.model_copy(update=facts)


def pretraining_card(objective: Objective, recipe: Any, folder: Path, step: int, seconds: float) -> str:
    """Return the README of the encoder's folder, in Markdown, with the metadata block that the hub reads.

    Args:
        objective: of masked prediction, joint embedding or contrastive pairs.
        recipe: of one of them.
        folder: of the run.
        step: steps taken.
        seconds: duration of the run.
    """
    assert objective.encoder is not None
    card, corpus = objective.encoder.card, objective.corpus
    metrics = (read_metrics(folder / LOG_FILE) or [{}])[-1]
    summary = objective.initialization.summary()
    initial = f"## Initial weights\n\nThe run {summary}.\n\n" if summary else ""
    if hasattr(recipe, "targets"):
        described = recipe.targets
    elif hasattr(recipe, "pairs"):
        described = {"the other view of the same recording": recipe.pairs}
    else:
        described = {"representation of masked patches": recipe.target}
    targets = "\n".join(f"- `{name}`: `{settings.model_dump_json()}`" for name, settings in described.items())
    rows = "\n".join(f"| {key} | {value:.4g} |" for key, value in metrics.items() if isinstance(value, int | float))
    hours = step * recipe.batch * recipe.crop_seconds / 3600
    metadata = card_metadata(card, read_probes(folder / LOG_FILE), ("self-supervised",))
    return f"""---
{metadata}
---

# {card.name}

Pre-trained by Carrara on {len(corpus.items)} files ({corpus.seconds / 3600:.2f} hours) without labels: \
{step} of {recipe.steps} steps of {recipe.batch} crops of {recipe.crop_seconds:g} s ({hours:.2f} hours in all), \
{card.parameters:,} parameters, {seconds:.0f} s on {objective.dist.device.type}. {describe_data(card)}

```python
{usage_snippet(card)}
```

Network: `{recipe.encoder}` with the settings in `config.json`. Corpus: SHA-256 of names and lengths
`{corpus.identity()}`; {corpus.short} files were shorter than a crop, {len(corpus.unreadable)} could not
be opened. The whole recipe is in `run.json`, every metric over time in `{LOG_FILE}`.

## Targets

{targets}

{initial}{probe_section(read_probes(folder / LOG_FILE))}## Last line of the log

| | |
|---|---|
{rows}

## Settings

```json
{json.dumps(recipe.model_dump(mode="json"), indent=1)}
```
"""


def identify_corpus(paths: Sequence[str | Path]) -> tuple[str, ...]:
    """Return the names of what a corpus is: known datasets by their name, others by that of their folder or file.

    A path belongs to a dataset if a part of it is the dataset's name or one of the names that its folder may have.
    """
    known: dict[str, str] = {}
    for name in DATA.names():
        dataset = DATA.get(name)
        if name != FolderDataset.name:
            known |= dict.fromkeys(map(str.lower, (name, *dataset.folder_names)), name)
    names = []
    for path in paths:
        address = absolute(normalize(path)).rstrip("/")
        parts = [part for part in address.split("/") if part]
        names.append(next((known[part.lower()] for part in reversed(parts) if part.lower() in known), parts[-1]))
    return tuple(dict.fromkeys(names))


def describe_data(card: Card) -> str:
    """Return a sentence with the data that an encoder was trained on, and their licences where they are known."""
    described = [
        f"{name} ({DATA.get(name).license})" if name in DATA.names() and name != FolderDataset.name else name
        for name in card.trained_on
    ]
    licence = f" Licence of the weights: {card.license}." if card.license else ""
    return f"Data: {', '.join(described) or 'not stated'}.{licence}"


def card_metadata(card: Card, probes: Sequence[Mapping[str, Any]], tags: Sequence[str]) -> str:
    """Return the metadata that the hub reads, as YAML: library, licence, data, and the scores of the last probes."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            "feature-extraction", f"{name} (validation)", f"{name} (validation)", probe["metric"], probe["score"]
        )
        for name, probe in (probes[-1][PROBES].items() if probes else ())
    ]
    data = ModelCardData(
        library_name="carrara",
        tags=["audio", "music", *tags],
        pipeline_tag="feature-extraction",
        license="other" if card.license else None,
        license_name=card.license or None,
        model_name=card.name,
        eval_results=results or None,
        # Not `datasets`: the hub takes these for its own.
        trained_on=list(card.trained_on) or None,
    )
    return data.to_yaml().strip()


def probe_section(probes: Sequence[Mapping[str, Any]]) -> str:
    """Return a section with the scores of the last of these probes; empty where there is none."""
    if not probes:
        return ""
    rows = "\n".join(
        f"| {name} | {probe['metric']} | {probe['score']:.3f} [{probe['low']:.3f}, {probe['high']:.3f}] |"
        for name, probe in probes[-1][PROBES].items()
    )
    head = "| probe | | on validation clips, with 95 % interval |\n|---|---|---|"
    return f"## The probe at step {probes[-1]['step']}\n\n{head}\n{rows}\n\n"
