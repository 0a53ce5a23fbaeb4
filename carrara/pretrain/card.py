"""The model card of a pre-training run: how the encoder was trained, on what, how far, and how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from carrara.pretrain.metrics_log import LOG_FILE, PROBES, read_metrics, read_probes
from carrara.pretrain.objectives._base import Objective


def pretraining_card(objective: Objective, recipe: Any, folder: Path, step: int, seconds: float) -> str:
    """Return the README of the encoder's folder, in Markdown, with the metadata block that the hub reads.

    Args:
        objective: of masked prediction or joint embedding.
        recipe: of either.
        folder: of the run.
        step: steps taken.
        seconds: duration of the run.
    """
    assert objective.encoder is not None
    card, corpus = objective.encoder.card, objective.corpus
    metrics = (read_metrics(folder / LOG_FILE) or [{}])[-1]
    summary = objective.initialization.summary()
    initial = f"## Initial weights\n\nThe run {summary}.\n\n" if summary else ""
    described = recipe.targets if hasattr(recipe, "targets") else {"representation of masked patches": recipe.target}
    targets = "\n".join(f"- `{name}`: `{settings.model_dump_json()}`" for name, settings in described.items())
    rows = "\n".join(f"| {key} | {value:.4g} |" for key, value in metrics.items() if isinstance(value, int | float))
    hours = step * recipe.batch * recipe.crop_seconds / 3600
    return f"""---
library_name: carrara
tags: [audio, music, self-supervised]
---

# {card.name}

Pre-trained by Carrara on {len(corpus.items)} files ({corpus.seconds / 3600:.2f} hours) without labels: \
{step} of {recipe.steps} steps of {recipe.batch} crops of {recipe.crop_seconds:g} s ({hours:.2f} hours in all), \
{card.parameters:,} parameters, {seconds:.0f} s on {objective.dist.device.type}.

```python
import carrara

encoder = carrara.load({card.name!r})
layers = encoder(samples)  # float32 [batch, samples] at {card.sample_rate} Hz \
-> [batch, {card.num_layers + 1}, frames, {card.dim}]
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
