"""`carrara show`: documentation of an encoder, task, dataset, recipe or other entry, or the clips of a dataset."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carrara.cli._echo import echo

if TYPE_CHECKING:
    from carrara.core.registry import Entry
    from carrara.core.settings import Settings
    from carrara.data._base import Dataset


def show(
    name: Annotated[
        str, typer.Argument(help="A name that `carrara ls` lists; KIND:NAME where two kinds share it (data:pebble).")
    ],
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the datasets, for --clips. [env: CARRARA_DATA]")
    ] = None,
    clips: Annotated[bool, typer.Option("--clips", help="List a dataset's clips: ids, splits, labels.")] = False,
    split: Annotated[
        str | None,
        typer.Option(
            help="With --clips: the split scheme for the key `split` of the JSON; by default each clip's first."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the documentation, settings, licence and citation of one entry, or a dataset's clips.

    - `carrara show mert-v1-95m`
    - `carrara show pebble/key --json`
    - `carrara show data:pebble --clips --json`
    """
    from carrara.cli._registries import KINDS, list_entries, resolve_entry

    kind, entry = resolve_entry(f"data:{name}" if clips and ":" not in name else name)
    if clips:
        rows = _list_clips(entry.name, data_dir, split)
        if as_json:
            echo(json.dumps(rows, ensure_ascii=False, default=str))
            return
        for row in rows:
            splits = " ".join(f"{scheme}={name}" for scheme, name in row["splits"].items())
            echo(f"{row['id']}\t{splits}\t{'' if row['present'] else 'missing'}")
        return
    others = [each for each in KINDS if each != kind and entry.name in list_entries(each) and ":" not in name]
    entries = [(kind, entry), *((each, list_entries(each)[entry.name]) for each in others)]
    if as_json:
        first, *rest = (
            {"name": each.name, "kind": kind, "text": each.text, **_describe(kind, each.name)} for kind, each in entries
        )
        echo(json.dumps(first | ({"others": rest} if rest else {}), ensure_ascii=False, indent=1))
        return
    for number, (kind, each) in enumerate(entries):
        echo(("\n" * (number > 0)) + _to_text(kind, each))


def _to_text(kind: str, entry: Entry) -> str:
    """Return an entry's documentation, its facts, and a table of its settings, fitted to the terminal."""
    from carrara.cli._layout import format_columns, output_width, reflow, settings_rows, wrap

    width = output_width()
    details = {key: value for key, value in _describe(kind, entry.name).items() if key != "settings"}
    steps = details.pop("manual_steps", "")
    lines = [f"{entry.name}  ({kind})", "", reflow(entry.text, width), ""]
    lines += format_columns(list(_flatten(details)), width)
    if steps:
        lines += ["", "By hand:", "", reflow(steps, width)]
    settings = _find_settings(kind, entry.name)
    rows = list(settings_rows(settings)) if settings else []
    title = "Settings and their defaults (`--set NAME=VALUE` changes one):"
    if kind == "heads":
        command = f"carrara bench ENCODER -p semi-constrained --set head={entry.name} --set NAME=VALUE"
        title = wrap(f"Settings and their defaults, those of the semi-constrained protocol (`{command}`):", width)
        rows = [row for row in rows if row[0] != "head"]
    if kind == "data":
        title = "Options of `carrara download`, `check` and `bench` and their defaults:"
        rows = list(_data_options(entry.name))
    if rows:
        lines += ["" for _ in range(bool(details))]
        lines += [title, "", *format_columns([("setting", "default", "meaning"), *rows], width)]
    return "\n".join(lines)


def _data_options(name: str) -> Iterator[tuple[str, str, str]]:
    """Yield the options that a dataset takes, with their defaults and meanings."""
    from carrara.data import REGISTRY
    from carrara.data._base import Dataset

    dataset: Dataset = REGISTRY.get(name)
    if name == "folder":
        yield "--data-dir", "none", "the folder of recordings itself"
        return
    yield "--data-dir", "$CARRARA_DATA, else ~/mir_datasets", f"holds the folder {name}, or is it"
    if type(dataset).root_for_size is not Dataset.root_for_size:
        yield "--size", dataset.root(Path(name)).name, "of `carrara download`; for others give its folder as --data-dir"


def _find_settings(kind: str, name: str) -> Settings | None:
    """Return the default settings of an entry; None for a kind that has none."""
    from carrara.cli._registries import REGISTRIES

    if kind == "heads":
        return REGISTRIES["protocols"].get("semi-constrained").settings(head=name)
    if kind not in ("encoders", "protocols", "targets", "recipes"):
        return None
    definition = REGISTRIES[kind].get(name)
    if kind == "encoders":
        return definition.variants[name][1]
    if kind == "recipes":
        return definition.variants[name]
    return definition.settings() if kind == "protocols" else definition.settings_type()


def _describe(kind: str, name: str) -> dict[str, Any]:
    from carrara.bench.suites import SUITES
    from carrara.cli._registries import REGISTRIES

    if kind == "suites":
        return {"version": SUITES[name].version, "tasks": list(SUITES[name].tasks)}
    definition = REGISTRIES[kind].get(name)
    if kind == "encoders":
        from carrara.encoders._hub.availability import check_availability

        card, settings = definition.variants[name]
        availability = check_availability(name)
        return {
            "status": availability.status,
            "needs": availability.needs,
            "card": card.model_dump(mode="json"),
            "settings": settings.model_dump(mode="json"),
        }
    if kind == "data":
        dataset: Dataset = definition
        return {
            "title": dataset.title,
            "license": dataset.license,
            "commercial_use": dataset.commercial_use,
            "citation": dataset.citation,
            "source": dataset.source,
            "expected_counts": dataset.expected_counts,
            "known_leaks": dataset.known_leaks,
            "manual_steps": dataset.manual_steps,
            "remotes": [vars(remote) for remote in dataset.remotes],
        }
    if kind == "tasks":
        return definition.model_copy(update={"name": name}).model_dump(mode="json")
    if kind in ("protocols", "targets"):
        settings_type = definition.settings if kind == "protocols" else definition.settings_type
        return {"settings": settings_type().model_dump(mode="json")}
    if kind == "reproductions":
        return {"rows": [row.label for row in definition.rows]}
    if kind == "recipes":
        return {"settings": definition.variants[name].model_dump(mode="json"), "scales": list(definition.scales)}
    return {}


def _list_clips(name: str, data_dir: Path | None, split_scheme: str | None) -> list[dict[str, Any]]:
    from carrara.core.errors import UsageError, did_you_mean
    from carrara.data import REGISTRY

    dataset: Dataset = REGISTRY.get(name)
    root = dataset.root(data_dir)
    schemes = dataset.splits(root)
    if split_scheme is not None and split_scheme not in schemes:
        raise UsageError(f"--split: {name} has no split scheme {split_scheme!r}.{did_you_mean(split_scheme, schemes)}")
    rows = []
    for clip in dataset.index(root):
        splits = {scheme: split_of[clip.id] for scheme, split_of in schemes.items() if clip.id in split_of}
        rows.append(
            {
                "id": clip.id,
                "split": splits.get(split_scheme) if split_scheme else next(iter(splits.values()), None),
                "splits": splits,
                "group": clip.group,
                "labels": clip.labels,
                "start": clip.start,
                "duration": clip.duration,
                "present": all(path.is_file() for path in dataset.paths(clip)),
            }
        )
    return rows


def _flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    from carrara.cli._layout import format_value

    for key, value in tree.items():
        if isinstance(value, dict) and value and not all(isinstance(each, int) for each in value.values()):
            yield from _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for index, item in enumerate(value):
                yield from _flatten(item, f"{prefix}{key}.{index}.")
        elif prefix == "card.files." and not value:
            yield prefix + key, "(SHA-256 not known)"
        elif value not in (None, "", [], {}):
            yield prefix + key, format_value(value)
