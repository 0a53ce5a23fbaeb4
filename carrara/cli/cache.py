"""`carrara cache`: where the stored features are, how large, and their removal."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Literal

import typer


def cache(
    action: Annotated[Literal["dir", "size", "clean"], typer.Argument(help="Where it is, how large, or remove it.")],
    encoder: Annotated[str | None, typer.Option("--encoder", "-e", help="Only the features of this encoder.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show or remove what can be made again: the features of each encoder, indexes, fine-tunings that were stopped.

    - `carrara cache dir`
    - `carrara cache size --json`
    - `carrara cache clean --encoder noise --yes`
    """
    from carrara.core.paths import home

    if action == "dir":
        typer.echo(json.dumps({"dir": str(home())}) if as_json else str(home()))
    elif action == "size":
        _size(encoder, as_json)
    else:
        _clean(encoder, yes, as_json)


def _size(encoder: str | None, as_json: bool) -> None:
    from carrara.features.cache import chosen, rest, size_of

    found = chosen(encoder)
    other = sum(map(size_of, rest())) if encoder is None else 0
    total = sum(store.bytes for store in found) + other
    if as_json:
        rows = [
            {
                "encoder": store.encoder,
                "folder": str(store.folder),
                "items": store.items,
                "bytes": store.bytes,
                **store.view,
            }
            for store in found
        ]
        typer.echo(json.dumps({"stores": rows, "index": other, "bytes": total}, ensure_ascii=False))
        return
    for store in found:
        typer.echo(f"{store.encoder}\t{store.items} items\t{_readable(store.bytes)}\t{store.folder}")
    typer.echo(f"total\t{_readable(total)}")


def _clean(encoder: str | None, yes: bool, as_json: bool) -> None:
    from carrara.core.errors import UsageError
    from carrara.features.cache import chosen, clean

    doomed = chosen(encoder)
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("cache clean removes features; say --yes where nobody can be asked")
        size = _readable(sum(store.bytes for store in doomed))
        typer.confirm(f"Remove {len(doomed)} stores ({size})?", abort=True, err=True)
    freed = clean(doomed, with_rest=encoder is None)
    typer.echo(
        json.dumps({"removed": len(doomed), "bytes": freed})
        if as_json
        else f"{len(doomed)} stores removed, {_readable(freed)} freed"
    )


def _readable(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
