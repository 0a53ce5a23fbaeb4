"""`carrara embed`: embeddings of recordings, as a Parquet file or a folder of Parquet parts."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Literal

import typer


def embed(
    paths: Annotated[list[Path], typer.Argument(help="Audio files and folders of them, of any format and length.")],
    encoder: Annotated[
        str, typer.Option("--encoder", "-e", help="Registry name, folder or hub id; NAME:random for random weights.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A Parquet file OUT.parquet, or a folder for Parquet parts.")
    ],
    per: Annotated[
        Literal["clip", "window", "frame"], typer.Option(help="One row per recording (clip), window or frame.")
    ] = "clip",
    layer: Annotated[
        str,
        typer.Option(help="0 to L; last; mean (over 0 to L); cnn (convolutional features); all (one row per layer)."),
    ] = "mean",
    window: Annotated[
        float | None, typer.Option(min=0.01, help="Seconds of a window; by default the encoder's own, or 30.")
    ] = None,
    hop: Annotated[
        float | None,
        typer.Option(
            min=0.01, help="Seconds from window to window; by default a window; with --per frame windows overlap."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Windows of a batch; by default a number that suits the device.")
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting of the encoder, such as tokens=frames.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Embed recordings and write a Parquet file, or a folder of Parquet parts.

    - `carrara embed ~/Music -e chroma-mfcc -o music.parquet`
    - `carrara embed ~/Music -e chroma-mfcc -o music/`
    - `carrara embed song.mp3 -e mert-v1-95m:random -o song.parquet --per frame --layer 5`
    - `carrara embed a.wav b.flac ~/Music -e mfcc -o windows.parquet --per window --window 10 --json`
    - `carrara embed ~/Music -e maest-30s -o frames.parquet --per frame --layer 7 --set tokens=frames`

    Columns: path, start, duration (s), layer, embedding. A file that cannot be decoded is reported with the reason, the
    rest go on, and the exit code is 1. The same command run again continues where it stopped, embeds only new
    recordings, and drops those that are no longer given.
    """
    from carrara.audio.files import list_audio_files
    from carrara.core.settings import parse_assignments, parse_settings
    from carrara.encoders._hub.load import load, with_settings
    from carrara.features.embed import EmbedConfig
    from carrara.features.parquet import write_embeddings
    from carrara.nn.device import pick_device

    start = time.perf_counter()
    values = {"per": per, "layer": layer, "window_seconds": window, "hop_seconds": hop}
    config = parse_settings(EmbedConfig, values, "embed")
    files, device = list_audio_files(paths), pick_device(device)
    network = with_settings(load(encoder), parse_assignments(changes or []))
    report = write_embeddings(network, files, output, config, device, batch_size)
    seconds, done = time.perf_counter() - start, report.embedded + report.reused
    for reason in report.failed.values():
        typer.echo(f"carrara embed: {reason}", err=True)
    if as_json:
        summary = {
            "output": str(output) if done else None,
            "rows": report.rows,
            "files": done,
            "embedded": report.embedded,
            "reused": report.reused,
            "failed": report.failed,
            "seconds": round(seconds, 3),
        }
        # A name that is not UTF-8 keeps its bytes as JSON's own escapes.
        typer.echo(json.dumps(summary, ensure_ascii=False).encode("utf-8", "backslashreplace").decode())
    elif done:
        typer.echo(f"{output}\t{report.rows} rows of {done} files")
    counts = f"{report.embedded} files embedded, {report.reused} reused, {len(report.failed)} failed"
    typer.echo(f"{counts}, {seconds:.1f} s", err=True)
    if report.failed:
        raise typer.Exit(1)
