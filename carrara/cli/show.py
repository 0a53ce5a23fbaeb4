"""`carrara show`: the card, paragraph, licence and citation of one thing, and a dataset's clips."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer


def show(
    name: Annotated[
        str, typer.Argument(help="Anything `carrara ls` shows; REGISTRY:NAME where two share a name (data:pebble).")
    ],
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the datasets, for --clips. [env: CARRARA_DATA]")
    ] = None,
    clips: Annotated[bool, typer.Option("--clips", help="List a dataset's clips: ids, splits, labels.")] = False,
    split: Annotated[
        str | None,
        typer.Option(help="With --clips: the sides of this split; by default of the first that has the clip."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell all about one thing.

    - `carrara show mert-v1-95m`
    - `carrara show pebble/key --json`
    - `carrara show data:pebble --clips --json`
    """
    from carrara.cli._registries import find

    word, entry = find(f"data:{name}" if clips and ":" not in name else name)
    if clips:
        _clips(entry.name, data_dir, split, as_json)
        return
    card: dict[str, Any] = {"name": entry.name, "shelf": word, "text": entry.text, **_details(word, entry.name)}
    if as_json:
        typer.echo(json.dumps(card, ensure_ascii=False, indent=1))
        return
    typer.echo(f"{entry.name}  ({word})\n\n{entry.text}\n")
    for key, value in _lines(_details(word, entry.name)):
        typer.echo(f"{key:<28} {value}")


def _details(word: str, name: str) -> dict[str, Any]:
    from carrara.bench.suites import SUITES
    from carrara.cli._registries import REGISTRIES

    if word == "suites":
        return {"version": SUITES[name].version, "tasks": list(SUITES[name].tasks)}
    thing = REGISTRIES[word].get(name)
    if word == "encoders":
        from carrara.encoders._hub.availability import state

        card, settings = thing.variants[name]
        found = state(name)
        return {
            "ready": found.word == "ready",
            "needs": found.needs,
            "card": card.model_dump(mode="json"),
            "settings": settings.model_dump(mode="json"),
        }
    if word == "data":
        keys = ("title", "license", "commercial_use", "citation", "source", "golden", "known_leaks", "steps")
        remotes = [vars(remote) for remote in thing.remotes]
        return {**{key: getattr(thing, key) for key in keys}, "remotes": remotes}
    if word == "tasks":
        return thing.model_copy(update={"name": name}).model_dump(mode="json")
    if word == "recipes":
        return {"settings": thing.variants[name].model_dump(mode="json"), "scales": list(thing.scales)}
    return {}


def _clips(name: str, data_dir: Path | None, split: str | None, as_json: bool) -> None:
    from carrara.core.errors import UsageError, did_you_mean
    from carrara.data import REGISTRY

    dataset = REGISTRY.get(name)
    root = dataset.root(data_dir)
    splits = dataset.splits(root)
    if split is not None and split not in splits:
        raise UsageError(f"--split: {name} has no split {split!r}.{did_you_mean(split, splits)}")
    rows = []
    for clip in dataset.index(root):
        sides = {named: of[clip.id] for named, of in splits.items() if clip.id in of}
        rows.append(
            {
                "id": clip.id,
                "split": sides.get(split) if split else next(iter(sides.values()), None),
                "splits": sides,
                "group": clip.group,
                "labels": clip.labels,
                "start": clip.start,
                "duration": clip.duration,
                "present": all(path.is_file() for path in dataset.paths(clip)),
            }
        )
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False, default=str))
        return
    for row in rows:
        all_sides = " ".join(f"{named}={side}" for named, side in row["splits"].items())
        typer.echo(f"{row['id']}\t{all_sides}\t{'' if row['present'] else 'missing'}")


def _lines(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _lines(value, f"{prefix}{key}.")
        elif prefix == "card.files." and not value:
            yield prefix + key, "(SHA-256 not known)"
        elif value not in (None, "", [], {}):
            yield prefix + key, ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
