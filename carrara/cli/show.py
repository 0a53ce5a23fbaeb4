"""`carrara show`: documentation of an encoder, task, dataset, recipe or other entry, or the clips of a dataset."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carrara.cli._completion import complete_names
from carrara.cli._echo import echo

if TYPE_CHECKING:
    from carrara.core.registry import Entry
    from carrara.data._base import Dataset

TITLES = {
    "license": "licence",
    "dim": "numbers in a vector",
    "cnn_dim": "numbers in cnn",
    "joint_dim": "numbers in joint",
    "num_layers": "layers",
    "is_constant": "same for all audio",
    "is_gated": "needs a login",
    "is_standardised": "samples standardised",
}


def show(
    name: Annotated[
        str,
        typer.Argument(
            help="A name that `carrara ls` lists; KIND:NAME where two kinds share it (data:pebble).",
            autocompletion=complete_names(),
        ),
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
        described = [
            {"name": each.name, "kind": kind, "text": each.text, **_describe(kind, each.name)} for kind, each in entries
        ]
        first, *rest = ({key: value for key, value in each.items() if key != "table"} for each in described)
        echo(json.dumps(first | ({"others": rest} if rest else {}), ensure_ascii=False, indent=1))
        return
    for number, (kind, each) in enumerate(entries):
        echo(("\n" * (number > 0)) + _to_text(kind, each))


def _to_text(kind: str, entry: Entry) -> str:
    """Return an entry's documentation, its facts, and a table of its settings, fitted to the terminal."""
    from carrara.cli._layout import format_columns, reflow, wrap
    from carrara.core.printable import output_width

    width = output_width()
    details = {key: value for key, value in _describe(kind, entry.name).items() if key != "settings"}
    files, steps = details.pop("remotes", []), details.pop("manual_steps", "")
    rows = details.pop("table", [])
    if "card" in details:
        card = details.pop("card")
        files = [{"url": url, "sha256": sha256} for url, sha256 in card.pop("files").items()]
        details |= {key: value for key, value in card.items() if key != "name"}
    lines = [f"{entry.name}  ({kind})", "", reflow(entry.text, width), ""]
    details |= {f"clips_of_{scheme}": counts for scheme, counts in (details.pop("expected_counts", None) or {}).items()}
    # The fields of a task are what a task file (.toml) sets, so they keep their names.
    facts = [
        (key if kind == "tasks" else title, fact)
        for key, value in details.items()
        for title, fact in [_to_words(key, value)]
        if key != "name"
    ]
    lines += format_columns([fact for fact in facts if fact[1]], width)
    if files:
        command = "download" if kind == "data" else "import"
        lines += ["", f"Files that `carrara {command} {entry.name}` fetches:"]
        lines += [line for file in files for line in ("", *_file_lines(file))]
    if steps:
        lines += ["", "By hand:", "", reflow(steps, width)]
    title = "Settings and their defaults (`--set NAME=VALUE` changes one):"
    if kind == "heads":
        command = f"carrara bench ENCODER -p semi-constrained --set head={entry.name} --set NAME=VALUE"
        title = wrap(f"Settings and their defaults, those of the semi-constrained protocol (`{command}`):", width)
    if kind == "data":
        title = "Options of `carrara download`, `check` and `bench` and their defaults:"
        rows = list(_data_options(entry.name))
    if rows:
        lines += ["" for _ in range(bool(details or files))]
        lines += [title, "", *format_columns([("setting", "default", "meaning"), *rows], width)]
    return "\n".join(lines)


def _to_words(key: str, value: Any) -> tuple[str, str]:
    """Return a fact as people write it: words instead of a field's name, a unit, yes or no; "" for no value."""
    from carrara.cli._layout import format_value

    title = TITLES.get(key, key.replace("_", " "))
    if value in (None, "", [], {}):
        return title, ""
    if isinstance(value, bool):
        return title, "yes" if value else "no"
    if key.endswith("_seconds"):
        return title.removesuffix(" seconds"), f"{value:g} s"
    if key in ("sample_rate", "frame_rate"):
        return title, f"{value:,.10g} Hz"
    if key == "training_hours":
        return title, " to ".join(f"{hours:,.10g}" for hours in dict.fromkeys(value))
    return title, f"{value:,}" if isinstance(value, int) else format_value(value)


def _file_lines(file: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of an official file: its name in the dataset's folder, its address, its SHA-256."""
    if file.get("path"):
        folder = file.get("unpack")
        yield f"    {file['path']}" + (
            "" if not folder else ", unpacked" if folder == "." else f", unpacked in {folder}"
        )
    yield f"    {file['url']}"
    yield f"    SHA-256 {file['sha256'] or 'not known'}"


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


def _describe(kind: str, name: str) -> dict[str, Any]:
    """Return the facts about an entry beside its documentation."""
    from carrara.bench.suites import SUITES
    from carrara.cli._facts import STORED_KINDS, read_facts
    from carrara.cli._registries import REGISTRIES

    if kind == "suites":
        return {"version": SUITES[name].version, "tasks": list(SUITES[name].tasks)}
    if kind in STORED_KINDS:
        facts = read_facts(kind, [name])[name]
        if kind == "encoders":
            from carrara.encoders._hub.availability import check_availability

            availability = check_availability(name)
            facts = {"status": availability.status, "needs": availability.needs} | facts
        return facts
    definition = REGISTRIES[kind].get(name)
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
    return definition.model_copy(update={"name": name}).model_dump(mode="json") if kind == "tasks" else {}


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
