"""`carrara index`: an index of a table of embeddings, so that `carrara find` is fast in large libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from carrara.cli._echo import echo


def index(
    table: Annotated[
        Path, typer.Argument(metavar="TABLE", help="A table that `carrara embed` wrote: OUT.parquet or a folder.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the index; by default TABLE.index."),
    ] = None,
    layer: Annotated[str | None, typer.Option(help="Which one, where the table has several.")] = None,
    standardise: Annotated[
        bool, typer.Option("--standardise", help="Scale each dimension to mean 0 and std 1 over the table first.")
    ] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make it anew instead of adding what is new.")] = False,
    threads: Annotated[int, typer.Option(min=0, help="Threads; 0 means all cores.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Index a table of embeddings for fast search, or bring its index up to date.

    - `carrara index music.parquet`
    - `carrara index music.parquet --standardise -o sound.index`
    - `carrara index layers.parquet --layer 5 -o layer-5.index`

    The index is usearch's HNSW graph over half precision, memory-mapped; what it finds is ranked by the exact vectors.
    Run again after `carrara embed`, it adds new recordings and removes those that the table lost. An index of another
    encoder or other weights is refused. Needs the extra `find`.
    """
    from carrara.features.embedding_table import EmbeddingTable
    from carrara.features.neighbour_index import update_index

    folder = output or table.with_suffix(".index")
    report = update_index(EmbeddingTable(table, layer, standardise), folder, rebuild, threads)
    if as_json:
        echo(json.dumps({"index": str(folder), **vars(report)}))
    else:
        echo(f"{folder}\t{report.rows} rows; {report.added} recordings added, {report.removed} removed")
