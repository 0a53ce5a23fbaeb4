"""`carrara dedupe`: recordings of a library that are the same, in another encoding or cut."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from carrara.cli._echo import echo
from carrara.core.printable import one_line


def dedupe(
    library: Annotated[
        str, typer.Argument(metavar="LIBRARY", help="A table of `carrara embed`, or an index of `carrara index`.")
    ],
    layer: Annotated[str | None, typer.Option(help="Which one, where the table has several.")] = None,
    min_similarity: Annotated[
        float, typer.Option(min=-1, max=1, help="Cosine from which two recordings are compared by their audio.")
    ] = 0.9,
    nearest: Annotated[int, typer.Option(min=1, help="Similar recordings with which each is compared.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print groups and pairs as JSON.")] = False,
) -> None:
    """List recordings that are the same: other encodings, other levels, excerpts and edits. Nothing is removed.

    - `carrara dedupe music.parquet`
    - `carrara dedupe music.index --json`
    - `carrara dedupe music.parquet --min-similarity 0.5 --nearest 50`

    Embeddings propose pairs, fingerprints of the audio decide. So the files have to be where the table says; those that
    are not are reported, and the exit code is 1. Copies at another speed or pitch are not found.
    """
    from carrara.features.duplicates import find_duplicates
    from carrara.features.search import open_library

    report = find_duplicates(open_library(library, layer), min_similarity, nearest)
    groups = report.groups()
    for problem in report.failed.values():
        echo(f"carrara dedupe: {problem}", err=True)
    if as_json:
        pairs = [asdict(pair) for pair in report.pairs]
        echo(json.dumps({"groups": groups, "pairs": pairs, "compared": report.compared, "failed": report.failed}))
    else:
        for number, group in enumerate(groups, 1):
            for path in group:
                echo(f"{number}\t{one_line(path)}")
    counts = f"{len(groups)} groups of {sum(map(len, groups))} recordings; {report.compared} pairs were compared"
    echo(counts, err=True)
    if report.failed:
        raise typer.Exit(1)
