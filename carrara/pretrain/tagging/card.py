"""The README of a tagger's folder: what it was trained on, how far, and how to use it."""

from __future__ import annotations

import json
from pathlib import Path

from carrara.encoders._base import Card
from carrara.encoders._hub.load import usage_snippet
from carrara.pretrain.card import card_metadata, describe_data, probe_section
from carrara.pretrain.metrics_log import LOG_FILE, read_metrics, read_probes
from carrara.pretrain.tagging.data import TaggedCorpus
from carrara.pretrain.tagging.settings import TaggingRecipe

SHOWN_TAGS = 60


def tagging_card(
    folder: Path, recipe: TaggingRecipe, card: Card, corpus: TaggedCorpus, initial: str, step: int, num_averaged: int
) -> str:
    """Return the README in Markdown, with the metadata block that the hub reads."""
    metrics = (read_metrics(folder / LOG_FILE) or [{}])[-1]
    tags = ", ".join(corpus.tags[:SHOWN_TAGS]) + (", …" if len(corpus.tags) > SHOWN_TAGS else "")
    weights = f"the mean of {num_averaged} epochs' weights" if num_averaged else "those of the last step"
    rows = "\n".join(f"| {key} | {value:.4g} |" for key, value in metrics.items() if isinstance(value, int | float))
    metadata = card_metadata(card, read_probes(folder / LOG_FILE), ("audio-classification",))
    return f"""---
{metadata}
---

# {card.name}

Trained by Carrara on {len(corpus.tags)} tags of {len(corpus.items)} clips of {corpus.dataset} \
({corpus.seconds / 3600:.2f} hours): {step} steps of {recipe.batch} crops of {recipe.crop_seconds:g} s, patchout of \
{recipe.patchout} columns, {card.parameters:,} parameters. Weights: {weights}; initial weights: {initial}. \
{describe_data(card)}

```python
{usage_snippet(card, predicts_tags=True)}
```

Tags: {tags}.

{probe_section(read_probes(folder / LOG_FILE))}## Last line of the log

| | |
|---|---|
{rows}

## Settings

```json
{json.dumps(recipe.model_dump(mode="json"), indent=1, ensure_ascii=False)}
```
"""
