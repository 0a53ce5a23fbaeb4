"""`carrara explore`: a map of recordings in the browser, with sound."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carrara.cli._echo import echo

if TYPE_CHECKING:
    from carrara.web.explorer.app import QueryEncoder

DEFAULT_ENCODER = "chroma-mfcc"
MAX_PROBLEMS = 5  # that are named
Audio = Annotated[
    list[Path] | None,
    typer.Option(metavar="FOLDER", help="Play only files below it, and look there for moved ones; repeatable."),
]


def explore(
    source: Annotated[
        Path, typer.Argument(help="A folder of audio, a table of `carrara embed`, or the folder of a feature store.")
    ],
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="CSV or Parquet with path, labels and, if you like, split."),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Take the labels from this dataset (`carrara ls data`).")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the datasets, by default $CARRARA_DATA.")] = None,
    layer: Annotated[list[str] | None, typer.Option(help="Only this layer; may be repeated. By default all.")] = None,
    audio: Audio = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder",
            "-e",
            help=f"Of a folder of audio, by default {DEFAULT_ENCODER}; of a table, where its name there is not enough.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to answer at; this machine only unless changed.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = 8760,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
) -> None:
    """Explore recordings in the browser: a map by their embeddings, with sound.

    - `carrara explore ~/Music`
    - `carrara explore ~/Music -e mert-v1-95m`
    - `carrara explore music.parquet`
    - `carrara explore music.parquet --labels labels.csv`
    - `carrara explore ~/.cache/carrara/features/mfcc/4e83… --data pebble`
    - `carrara explore music.parquet --audio /media/disk/Music --no-browser`, where the files have moved

    A folder of audio is embedded first; the table stays in Carrara's cache, so that the same command continues where it
    was stopped, and embeds only new and changed recordings.

    Point at a recording to play it, click for the most similar ones, drop a file to look for it, draw around points to
    label them, train a probe on the labels and save them as CSV. A table made with `--layer all` has a slider for its
    layers. Nothing leaves this machine. Ctrl-C stops.
    """
    import webbrowser

    from carrara.cli.map import read_label_clips
    from carrara.core.interrupts import stop_signal
    from carrara.web.listen import bind_socket, format_url, import_web, run_application

    _check_options(labels, data, audio or (), encoder)
    import_web()
    listener = bind_socket(host, port)

    from carrara.features.embedding_map import read_points
    from carrara.features.store import META
    from carrara.web.explorer.app import create_explorer
    from carrara.web.explorer.collection import Collection

    table = source
    if source.is_dir() and not (source / META).is_file() and not any(source.glob("*.parquet")):
        table = _embed_folder(source, encoder or DEFAULT_ENCODER, layer or [])
    collection = Collection(read_points(table, read_label_clips(labels, data, data_dir), layer or ()), audio or ())
    queries = None if (source / META).is_file() else _build_queries(table, list(collection.points.layers), encoder)
    hosts = ["127.0.0.1", "localhost", "[::1]"] if host in ("127.0.0.1", "localhost", "::1") else None
    application = create_explorer(collection, source.resolve().name, queries, hosts)
    url = format_url(listener)
    playable = sum(collection.audio_file(row) is not None for row in range(min(len(collection.points.names), 1000)))
    if not playable:
        echo("none of the first recordings is at its path any more; --audio FOLDER says where they are", err=True)
    echo(f"{len(collection.points.names):,} recordings at {url}; Ctrl-C stops", err=True)
    if browser:
        webbrowser.open(url)
    try:
        run_application(application, listener)
    except KeyboardInterrupt:
        raise typer.Exit(128 + stop_signal()) from None
    finally:
        echo("carrara explore: stopped", err=True)


def _check_options(labels: Path | None, data: str | None, audio: Sequence[Path], encoder: str | None) -> None:
    from carrara.cli._checks import check_encoder
    from carrara.core.errors import UsageError

    if labels is not None and data is not None:
        raise UsageError("--labels and --data both name labels; give one of them")
    for folder in audio:
        if not folder.is_dir():
            raise UsageError(f"--audio {folder}: no such folder")
    if encoder is not None:
        check_encoder(encoder)


def _embed_folder(folder: Path, spec: str, layers: list[str]) -> Path:
    """Embed the recordings of a folder into a table in the cache and return its path; those that are there stay.

    Raises:
        DataError: There is no audio in the folder.
        AudioError: None of it can be decoded.
    """
    from hashlib import sha256

    from carrara.audio.files import list_audio_files
    from carrara.core.errors import AudioError
    from carrara.core.paths import home
    from carrara.core.settings import parse_settings

    files = list_audio_files([folder])

    from carrara.encoders._hub.load import load
    from carrara.features.embed_config import EmbedConfig
    from carrara.features.encode import JOINT
    from carrara.features.table_files import write_table
    from carrara.nn.device import pick_device

    network = load(spec)
    whole = JOINT if network.card.joint_dim else "all"
    chosen = layers[0] if len(layers) == 1 else whole
    config = parse_settings(EmbedConfig, {"layer": chosen}, "explore")
    key = sha256(f"{folder.resolve()}\n{spec}\n{chosen}".encode("utf-8", "surrogateescape")).hexdigest()[:12]
    table = home() / "explore" / f"{key}.parquet"
    echo(f"embedding {len(files):,} recordings with {spec} (-e chooses another encoder) into {table}", err=True)
    report = write_table(network, files, table, config, pick_device("auto"), overwrite=True)
    for reason in list(report.failed.values())[:MAX_PROBLEMS]:
        echo(f"carrara explore: {reason}", err=True)
    if len(report.failed) > MAX_PROBLEMS:
        echo(f"carrara explore: and {len(report.failed) - MAX_PROBLEMS:,} others could not be embedded", err=True)
    echo(f"{report.embedded:,} embedded, {report.reused:,} as before, {len(report.failed):,} failed", err=True)
    if not report.rows:
        raise AudioError(f"{folder}: none of its {len(files):,} audio files can be decoded")
    return table


def _build_queries(source: Path, layers: list[str], spec: str | None) -> QueryEncoder:
    """Return what embeds dropped files and texts as a table's encoder does."""
    import numpy as np

    from carrara.features.embedding_table import EmbeddingTable
    from carrara.features.search import encode_text_query, resolve_queries
    from carrara.web.explorer.app import QueryEncoder

    tables = {layer: EmbeddingTable(source, layer) for layer in layers}

    def embed_file(path: Path, layer: str) -> np.ndarray:
        return resolve_queries([str(path)], tables[layer], spec)[0].unit_D

    def embed_text(text: str) -> np.ndarray:
        return encode_text_query(text, tables["joint"], spec)

    return QueryEncoder(embed_file, embed_text if "joint" in tables else None)
