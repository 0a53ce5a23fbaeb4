"""`carrara cache`: show the folder and the sizes of stored features, or remove them."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Literal

import typer

from carrara.cli._echo import echo


def cache(
    action: Annotated[
        Literal["dir", "size", "clean"],
        typer.Argument(help="dir prints the folder, size lists the stores, clean removes them."),
    ],
    encoder: Annotated[str | None, typer.Option("--encoder", "-e", help="Only the features of this encoder.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove without confirmation.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show or remove files that can be computed again: features, indexes of corpora, unfinished fine-tuning.

    clean also removes the temporary files of killed processes, and keeps what a running process has open.

    - `carrara cache dir`
    - `carrara cache size --json`
    - `carrara cache clean --encoder noise --yes`
    """
    from carrara.core.errors import UsageError
    from carrara.core.paths import home
    from carrara.features.cache import list_stores, other_bytes, remove_stores

    if action == "dir":
        echo(json.dumps({"dir": str(home())}) if as_json else str(home()))
        return
    stores = list_stores(encoder)
    size = sum(store.bytes for store in stores)
    if action == "size":
        others = other_bytes() if encoder is None else 0
        if as_json:
            rows = [
                {
                    "encoder": store.encoder,
                    "folder": str(store.folder),
                    "items": store.items,
                    "bytes": store.bytes,
                    **store.settings,
                }
                for store in stores
            ]
            echo(json.dumps({"stores": rows, "index": others, "bytes": size + others}, ensure_ascii=False))
            return
        for store in stores:
            echo(f"{store.encoder}\t{store.items} items\t{_readable(store.bytes)}\t{store.folder}")
        echo(f"total\t{_readable(size + others)}")
        return
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("cache clean removes features; add --yes where no terminal can confirm it")
        typer.confirm(f"Remove {len(stores)} stores ({_readable(size)})?", abort=True, err=True)
    report = remove_stores(stores, others=encoder is None)
    removed = len(stores) - len(report.in_use)
    if as_json:
        in_use = [str(store.folder) for store in report.in_use]
        echo(json.dumps({"removed": removed, "bytes": report.freed, "in_use": in_use}, ensure_ascii=False))
    else:
        echo(f"{removed} stores removed, {_readable(report.freed)} freed")
    for store in report.in_use:
        echo(f"{store.folder}: kept, another process has it open; clean again when that is done", err=True)


def _readable(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
