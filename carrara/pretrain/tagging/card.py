"""The model card of a training on tags: how the tagger was made, from what, how far it got, and how to use it."""

from __future__ import annotations

import json
from pathlib import Path

from carrara.encoders._base import Card
from carrara.pretrain.metrics_log import NAME, read
from carrara.pretrain.tagging.settings import TaggingRecipe
from carrara.pretrain.tagging.tagged import Tagged

SHOWN = 60  # tags


def readme(folder: Path, recipe: TaggingRecipe, card: Card, corpus: Tagged, step: int, averaged: int) -> str:
    """Return the README of the encoder's folder, in Markdown, with the metadata block that the hub reads."""
    lines = read(folder / NAME)
    last = lines[-1] if lines else {}
    names = ", ".join(corpus.names[:SHOWN]) + (", …" if len(corpus.names) > SHOWN else "")
    weights = f"the mean of {averaged} networks of the run" if averaged else "those of the last step"
    return "\n".join(
        [
            "---",
            "library_name: carrara",
            "tags: [audio, music, audio-classification]",
            "---",
            "",
            f"# {card.name}",
            "",
            f"Taught {len(corpus.names)} tags by Carrara on {len(corpus.items)} clips of {corpus.dataset} "
            f"({corpus.seconds / 3600:.2f} hours): {step} steps of {recipe.batch} crops of {recipe.crop_seconds:g} s, "
            f"{recipe.patchout} columns of patches left out, {card.parameters:,} parameters. "
            f"Weights: {weights}; initial weights: {recipe.initial.kind}.",
            "",
            "```python",
            "import carrara",
            "",
            f"encoder = carrara.load({card.name!r})",
            f"probable = encoder.tags(samples)  # float32 [batch, samples] at {card.sample_rate} Hz",
            "```",
            "",
            f"Tags: {names}.",
            "",
            "## The journal's last line",
            "",
            "| | |",
            "|---|---|",
            *(f"| {key} | {value:.4g} |" for key, value in last.items() if isinstance(value, int | float)),
            "",
            "## Settings",
            "",
            "```json",
            json.dumps(recipe.model_dump(mode="json"), indent=1, ensure_ascii=False),
            "```",
            "",
        ]
    )
