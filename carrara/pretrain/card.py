"""The model card of a run: how the encoder was made, from what, how far it got, and how to use it."""

from __future__ import annotations

import json

from carrara.pretrain.metrics_log import NAME, PROBES, probed, read
from carrara.pretrain.state import Run


def readme(run: Run) -> str:
    """Return the README of the encoder's folder, in Markdown, with the metadata block that the hub reads."""
    card, corpus, recipe = run.model.encoder.card, run.stream.corpus, run.recipe
    lines = read(run.folder / NAME)
    last = lines[-1] if lines else {}
    rows = [f"| {key} | {value:.4g} |" for key, value in last.items() if isinstance(value, int | float)]
    targets = [f"- `{name}`: `{settings.model_dump_json()}`" for name, settings in recipe.targets.items()]
    return "\n".join(
        [
            "---",
            "library_name: carrara",
            "tags: [audio, music, self-supervised]",
            "---",
            "",
            f"# {card.name}",
            "",
            f"Pre-trained by Carrara on {len(corpus.items)} files ({corpus.seconds / 3600:.2f} hours) without labels: "
            f"{run.step} of {recipe.steps} steps of {recipe.batch} crops of {recipe.crop_seconds:g} s "
            f"({run.step * recipe.batch * recipe.crop_seconds / 3600:.2f} hours heard), "
            f"{card.parameters:,} parameters, {run.seconds:.0f} s on {run.device.type}.",
            "",
            "```python",
            "import carrara",
            "",
            f"encoder = carrara.load({card.name!r})",
            f"layers = encoder(samples)  # float32 [batch, samples] at {card.sample_rate} Hz "
            f"-> [batch, {card.num_layers + 1}, frames, {card.dim}]",
            "```",
            "",
            f"Network: `{recipe.encoder}` with the settings in `config.json`. Corpus: SHA-256 of names and lengths",
            f"`{corpus.identity()}`; {corpus.short} files were shorter than a crop, {len(corpus.unreadable)} could not",
            "be opened. The whole recipe is in `run.json`, every number over time in `journal.jsonl`.",
            "",
            "## What was predicted",
            "",
            *targets,
            "",
            *(["## What it started from", "", f"It {run.told}.", ""] if run.told else []),
            *_probes(run),
            "## The journal's last line",
            "",
            "| | |",
            "|---|---|",
            *rows,
            "",
            "## Settings",
            "",
            "```json",
            json.dumps(recipe.model_dump(mode="json"), indent=1),
            "```",
            "",
        ]
    )


def _probes(run: Run) -> list[str]:
    """Return a section with the last probe's scores; nothing where there was none."""
    asked = probed(run.folder / NAME)
    if not asked:
        return []
    rows = [
        f"| {name} | {found['metric']} | {found['score']:.3f} [{found['low']:.3f}, {found['high']:.3f}] |"
        for name, found in asked[-1][PROBES].items()
    ]
    head = "| probe | | on validation clips, with 95 % interval |"
    return [f"## The probe at step {asked[-1]['step']}", "", head, "|---|---|---|", *rows, ""]
