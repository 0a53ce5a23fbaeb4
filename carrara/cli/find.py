"""`carrara find`: the recordings of a table nearest to others, or a walk from one to another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from carrara.cli._echo import echo
from carrara.core.printable import one_line

PLAYLIST_ENDINGS = (".m3u8", ".m3u")

Queries = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="QUERY…", help="Recordings, spans of them (song.mp3@1:00-1:30) or rows (row:17); several count as one."
    ),
]
Walk = Annotated[
    tuple[str, str] | None,
    typer.Option("--path", metavar="A B", help="Instead: a walk from recording A to B in --count recordings."),
]
Metadata = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="CSV or Parquet with path and the fields; by default the files' tags."),
]
ExcludeSame = Annotated[
    list[str] | None,
    typer.Option(metavar="FIELD", help="No result with the query's artist, album, …, or folder; repeatable."),
]
Standardise = Annotated[
    bool,
    typer.Option(
        "--standardise",
        help="Scale each dimension to mean 0 and std 1 over the table first; for mfcc and chroma.",
    ),
]
EncoderName = Annotated[
    str | None,
    typer.Option("--encoder", "-e", help="Of the table, where its name there is not enough, such as a folder."),
]
Playlist = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Also write a playlist, .m3u8 or .m3u; - prints only that."),
]


def find(
    library: Annotated[
        str, typer.Option("--in", metavar="LIBRARY", help="A table of `carrara embed`, or an index of `carrara index`.")
    ],
    queries: Queries = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many recordings or passages.")] = 10,
    path: Walk = None,
    text: Annotated[
        str | None, typer.Option(help="What to look for in words; LIBRARY is of `embed --layer joint`.")
    ] = None,
    passages: Annotated[
        bool, typer.Option("--passages", help="List rows (windows) instead of the best of each recording.")
    ] = False,
    exclude_same: ExcludeSame = None,
    metadata: Metadata = None,
    layer: Annotated[str | None, typer.Option(help="Which one, where the table has several.")] = None,
    standardise: Standardise = False,
    encoder: EncoderName = None,
    output: Playlist = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find the recordings most similar to others, by the cosine between their embeddings.

    - `carrara find song.mp3 --in music.parquet`
    - `carrara find song.mp3@1:00-1:30 --in windows.parquet --passages --json`
    - `carrara find a.mp3 b.mp3 --in music.index --exclude-same artist -o like-these.m3u8`
    - `carrara find --text "slow piano" --in joint.parquet`
    - `carrara find --path a.mp3 b.mp3 --in music.parquet -n 12 -o walk.m3u8`

    Prints similarity, start (s) and path, the most similar first, without the recordings of the query. Recordings that
    the table does not hold are embedded with the encoder that made it. Above 100,000 rows `carrara index` makes this
    fast.
    """
    from carrara.cli._checks import check_encoder
    from carrara.cli._outputs import check_ending
    from carrara.core.errors import UsageError
    from carrara.core.io import write_text

    if (bool(queries) or text is not None) == (path is not None):
        raise UsageError("give what to look for, such as a recording or --text, or --path A B, and not both")
    if output is not None:
        check_ending(output, PLAYLIST_ENDINGS)
    if encoder is not None:
        check_encoder(encoder)
    if metadata is not None and not exclude_same:
        raise UsageError(f"--metadata {metadata}: is read for --exclude-same FIELD; give that too, or leave it out")

    from carrara.features.search import Neighbour, write_playlist
    from carrara.features.search import find as find_rows

    neighbours = find_rows(
        path or queries or [],
        library,
        count,
        exclude_same or [],
        passages,
        path is not None,
        layer,
        standardise,
        encoder,
        metadata,
        text,
    ).to_pylist()
    if not neighbours:
        same = f", without those of the same {', '.join(exclude_same)}" if exclude_same else ""
        echo(f"carrara find: {library}: no other recording is in it{same}", err=True)
    if output is not None:
        playlist = write_playlist([Neighbour(**item) for item in neighbours])
        if str(output) == "-":
            echo(playlist, nl=False)
            return
        write_text(output, playlist)
    if as_json:
        echo(json.dumps(neighbours, indent=1, ensure_ascii=False))
        return
    for item in neighbours:
        echo(f"{item['similarity']:.3f}\t{item['start']:g}\t{one_line(item['path'])}")
