"""`carrara serve`: an HTTP service that embeds and tags recordings and finds similar ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from carrara.cli._echo import echo

Library = Annotated[
    Path | None,
    typer.Option("--index", metavar="LIBRARY", help="A table of `carrara embed` or an index of `carrara index`."),
]
SongIds = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="CSV with path and id: a music server's ids; by default a path is its id."),
]
Host = Annotated[str, typer.Option(help="Address to answer at; 0.0.0.0 answers other machines too.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")]
Megabytes = Annotated[float, typer.Option("--max-megabytes", min=0.001, help="Of an upload (MiB).")]
MaxSeconds = Annotated[float, typer.Option("--max-seconds", min=0.1, help="Of a recording.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds that a request may wait for its result.")]
MaxQueue = Annotated[int, typer.Option("--max-queue", min=1, help="Recordings that may wait; more are refused.")]
MaxBatch = Annotated[int, typer.Option("--max-batch", min=1, help="Most recordings that are encoded together.")]
BatchWait = Annotated[
    float, typer.Option("--batch-wait", min=0, help="Milliseconds that a batch waits for more recordings.")
]


def serve(
    encoder: Annotated[str, typer.Argument(help="Registry name, folder or hub id; NAME:random for random weights.")],
    library: Library = None,
    song_ids: SongIds = None,
    layer: Annotated[str | None, typer.Option(help="Of the library, where the table has several.")] = None,
    host: Host = "127.0.0.1",
    port: Port = 8750,
    max_megabytes: Megabytes = 64,
    max_seconds: MaxSeconds = 1200,
    timeout: Timeout = 60,
    max_queue: MaxQueue = 64,
    max_batch: MaxBatch = 16,
    batch_wait: BatchWait = 20,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting of the encoder, such as tokens=frames.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
) -> None:
    """Serve an encoder over HTTP: embeddings, tags and similar recordings of uploads.

    - `carrara serve chroma-mfcc`, then `curl -F file=@song.mp3 http://127.0.0.1:8750/embed`
    - `carrara serve mert-v1-95m --index music.index`, then `curl -F file=@song.mp3 http://127.0.0.1:8750/find`
    - `carrara serve maest-30s --port 9000`, then `curl -F file=@song.mp3 http://127.0.0.1:9000/tag`

    POST /embed (?layer=, ?per=), /tag (?top=) and /find (?count=) take a form with a file; GET /health, /metrics (for
    Prometheus), /docs and /openapi.json tell of the service. With --index it also answers OpenSubsonic's
    getSonicSimilarTracks and findSonicPath below /rest. Requests are encoded together where they meet, with the results
    of `carrara embed`; beyond --max-queue they get 503. There are no accounts: put a proxy before it on open networks.
    """
    from carrara.cli._checks import check_encoder
    from carrara.core.errors import UsageError
    from carrara.core.interrupts import stop_signal
    from carrara.core.settings import parse_assignments
    from carrara.features.search import open_library, require_same_encoder
    from carrara.nn.device import check_device, pick_device
    from carrara.web.listen import bind_socket, format_url, import_web, run_application

    # Whatever can be wrong in the command is looked at before torch is imported.
    assignments = parse_assignments(changes or [])
    check_encoder(encoder, assignments)
    check_device(device)
    if library is None and (song_ids is not None or layer is not None):
        raise UsageError(f"--{'layer' if layer else 'song-ids'}: needs a library; name it with --index")
    import_web()
    from carrara.web.service.subsonic import read_song_ids

    rows = None if library is None else open_library(library, layer)
    ids = None if song_ids is None else read_song_ids(song_ids)
    listener = bind_socket(host, port)

    from carrara.encoders._hub.load import load, with_settings
    from carrara.web.service.app import EncodingService, ServiceLimits, create_service

    limits = ServiceLimits(
        max_bytes=round(max_megabytes * 2**20),
        max_seconds=max_seconds,
        timeout=timeout,
        max_waiting=max_queue,
        max_batch=max_batch,
        batch_wait=batch_wait / 1000,
    )
    device = pick_device(device)
    network = with_settings(load(encoder), assignments).to(device).eval()
    if rows is not None:
        require_same_encoder(network, encoder, rows, "serve the encoder that made it, or embed the library again")
    application = create_service(EncodingService(network, rows, limits, device), ids)
    echo(f"{network.card.name} at {format_url(listener)} (/docs shows the calls); Ctrl-C stops", err=True)
    try:
        run_application(application, listener)
    except KeyboardInterrupt:
        raise typer.Exit(128 + stop_signal()) from None
    finally:
        echo("carrara serve: stopped", err=True)
