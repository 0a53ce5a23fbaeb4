"""`carrara ls`: list encoders, tasks, datasets, recipes and the other kinds."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from carrara.cli._completion import complete_kinds
from carrara.cli._echo import echo
from carrara.core.errors import UsageError

TEXT_COLUMNS = (1, 3, 7)  # of the table: network, input and task, which may wrap
MIN_TEXT_COLUMN = 14  # narrower, words of a cell would break
TABLE_FIELDS = (
    "name",
    "frame_rate",
    "parameters",
    "license",
    "commercial_use",
    "training_hours",
    "pretraining_task",
    "input",
    "network",
    "context_seconds",
    "stride_seconds",
)
KINDS_NOTE = "`carrara ls KIND` lists one kind; `carrara show NAME` documents one entry."
ENCODERS_NOTE = (
    "ready: loads by its name. import: loads after `carrara import NAME`, which downloads or reads its official files; "
    "`carrara show NAME` lists their addresses. train: no weights are published; train it with `carrara pretrain`."
)
COMMERCIAL_NOTE = " Weights that you train are bound by the licences of your corpus alone."


def ls(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="encoders, tasks, data, targets, recipes, protocols, heads, suites or reproductions; by default the "
            "kinds with their counts.",
            autocompletion=complete_kinds,
        ),
    ] = None,
    commercial: Annotated[
        bool,
        typer.Option("--commercial", help="Only encoders or datasets whose licence is known to allow commercial use."),
    ] = False,
    table: Annotated[
        bool,
        typer.Option(
            "--table", help="Of encoders: network, size, input, stride, context, hours of training and its task."
        ),
    ] = False,
    ready: Annotated[
        bool, typer.Option("--ready", help="Only encoders that load here, or datasets that are on this machine.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list of names and summaries.")] = False,
) -> None:
    """List encoders, tasks, datasets and so on; of encoders also whether they load here or which files they need.

    - `carrara ls`
    - `carrara ls encoders`
    - `carrara ls encoders --commercial --table`
    - `carrara ls encoders --ready`
    - `carrara ls data --commercial`
    - `carrara ls tasks --json`
    """
    from carrara.cli._layout import format_columns, wrap
    from carrara.cli._registries import KINDS, list_entries
    from carrara.core.printable import output_width

    kind = "data" if kind == "datasets" else kind  # as carrara.datasets
    if ready and kind not in ("encoders", "data"):
        raise UsageError("--ready is about encoders and data; write `carrara ls encoders --ready`")
    if commercial and kind not in ("encoders", "data"):
        raise UsageError("--commercial is about encoders and data; write `carrara ls encoders --commercial`")
    if table and kind != "encoders":
        raise UsageError("--table is about encoders; write `carrara ls encoders --table`")
    if kind is None:
        counts = {kind: list(list_entries(kind)) for kind in KINDS}
        rows = [
            {"name": kind, "summary": f"{len(names)}: {', '.join(names[:6])}{' …' if len(names) > 6 else ''}"}
            for kind, names in counts.items()
        ]
    else:
        rows = [{"name": entry.name, "summary": entry.summary} for entry in list_entries(kind).values()]
    if commercial:
        allowed = _commercial_names(str(kind))
        rows = [row for row in rows if row["name"] in allowed]
    if ready:
        is_ready = _ready_names(str(kind))
        rows = [row for row in rows if row["name"] in is_ready]
    if table:
        _print_table(list(_read_cards([row["name"] for row in rows]).values()), as_json)
        return
    columns = {"name": [row["name"] for row in rows]}
    if kind == "encoders":
        from carrara.encoders._hub.availability import check_availability

        availability = [check_availability(row["name"]) for row in rows]
        rows = [row | {"status": each.status, "needs": each.needs} for row, each in zip(rows, availability)]
        columns |= {
            "status": [each.status for each in availability],
            "files": [each.summary for each in availability],
        }
    if as_json:
        echo(json.dumps(rows, ensure_ascii=False, indent=1))
        return
    width = output_width()
    for line in format_columns(list(zip(*columns.values(), [row["summary"] for row in rows])), width):
        echo(line)
    if kind in (None, "encoders"):
        note = (ENCODERS_NOTE + COMMERCIAL_NOTE * commercial) if kind else KINDS_NOTE
        echo(f"\n{wrap(note, width)}", err=True)


def _commercial_names(kind: str) -> set[str]:
    """Return the encoders or datasets whose licence allows commercial use."""
    from carrara.cli._registries import REGISTRIES

    names = REGISTRIES[kind].names()
    if kind == "encoders":
        return {name for name, card in _read_cards(names).items() if card["commercial_use"]}
    return {name for name in names if REGISTRIES[kind].get(name).commercial_use}


def _ready_names(kind: str) -> set[str]:
    """Return the encoders that load on this machine, or the datasets whose folder is on it."""
    from carrara.cli._registries import REGISTRIES

    names = REGISTRIES[kind].names()
    if kind == "encoders":
        from carrara.encoders._hub.availability import check_availability

        return {name for name in names if check_availability(name).status == "ready"}
    # "folder" is no dataset of its own: its root is any folder.
    return {name for name in names if name != "folder" and REGISTRIES[kind].get(name).root().is_dir()}


def _read_cards(names: list[str]) -> dict[str, dict[str, Any]]:
    """Return the cards of registered encoders by name."""
    from carrara.cli._facts import read_facts

    return {name: facts["card"] for name, facts in read_facts("encoders", names).items()}


def _print_table(cards: list[dict[str, Any]], as_json: bool) -> None:
    """Print table 6.1 of [yuan2023thesis], of these encoders."""
    from carrara.cli._layout import format_columns
    from carrara.core.printable import output_width

    if as_json:
        echo(json.dumps([{field: card[field] for field in TABLE_FIELDS} for card in cards], indent=1))
        return
    head: tuple[str, ...] = (
        "encoder",
        "network",
        "parameters",
        "input",
        "stride",
        "context",
        "hours",
        "pre-training task",
    )
    lines = [head]
    for card in cards:
        stride = card["stride_seconds"] or (1 / card["frame_rate"] if card["frame_rate"] else card["context_seconds"])
        hours = "–".join(f"{hours:,.0f}" for hours in dict.fromkeys(card["training_hours"] or ()))
        millions = card["parameters"] / 1e6
        size = f"{millions:,.{0 if millions >= 10 else 1}f} M" if millions else "–"
        row = (card["network"], size, card["input"], _seconds(stride), _seconds(card["context_seconds"]), hours)
        lines.append((card["name"], *(cell or "–" for cell in row), card["pretraining_task"] or "yours to choose"))
    width = output_width()
    fixed = sum(max(map(len, cells)) + 2 for index, cells in enumerate(zip(*lines)) if index not in TEXT_COLUMNS)
    if width is None or sum(max(map(len, column)) + 2 for column in zip(*lines)) <= width:
        blocks = [lines]
    elif fixed + len(TEXT_COLUMNS) * MIN_TEXT_COLUMN <= width:
        _print_wrapped(lines, width)
        return
    else:
        blocks = [[(name, ""), *zip((f"  {title}" for title in head[1:]), cells)] for name, *cells in lines[1:]]
    for block in blocks:
        for line in format_columns(block, width):
            echo(line)


def _print_wrapped(lines: list[tuple[str, ...]], width: int) -> None:
    """Print a table whose network, input and task wrap within their columns."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="none")
    for index, title in enumerate(lines[0]):
        table.add_column(title, no_wrap=index not in TEXT_COLUMNS, overflow="fold")
    for line in lines[1:]:
        table.add_row(*line)
    console = Console(width=width, color_system=None, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(table)
    for printed in captured.get().splitlines():
        echo(printed.rstrip())


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value * 1000:.3g} ms" if value < 0.5 else f"{value:.4g} s"
