"""`carrara embed`: features of anyone's recordings, as a Parquet file."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from carrara.features.parquet import EmbedReport


def embed(
    paths: Annotated[list[Path], typer.Argument(help="Sound files and folders of them, of any format and length.")],
    encoder: Annotated[
        str, typer.Option("--encoder", "-e", help="Registry name, folder or hub id; NAME:random for random weights.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The Parquet file to make or to complete.")],
    per: Annotated[
        Literal["clip", "window", "frame"], typer.Option(help="A row is a whole recording, a window or a frame.")
    ] = "clip",
    layer: Annotated[
        str, typer.Option(help="0 to L; last; mean (of 0 to L); cnn (the front end's); all (a row for each of 0 to L).")
    ] = "mean",
    window: Annotated[
        float | None, typer.Option(min=0.01, help="Seconds of a window; by default the encoder's own, or 30.")
    ] = None,
    hop: Annotated[
        float | None,
        typer.Option(min=0.01, help="Seconds from window to window; by default a window, for frames a little less."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Windows of a batch; by default as many as the device takes well.")
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting of the encoder, such as tokens=frames.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Hear recordings with an encoder and write what it makes of them as a Parquet file.

    - `carrara embed ~/Music -e chroma-mfcc -o music.parquet`
    - `carrara embed song.mp3 -e mert-v1-95m:random -o song.parquet --per frame --layer 5`
    - `carrara embed a.wav b.flac ~/Music -e mfcc -o windows.parquet --per window --window 10 --json`
    - `carrara embed ~/Music -e maest-30s -o frames.parquet --per frame --layer 7 --set tokens=frames`

    Columns: path, start, duration (s), layer, embedding. A file that cannot be heard is named with its reason, the rest
    go on, and the exit code is 1. The same command goes on where it was stopped, and hears only what is new.
    """
    from carrara.core.settings import assignments, parse_settings
    from carrara.encoders._hub.load import load
    from carrara.encoders._hub.reconfigure import changed
    from carrara.features.embed import EmbedConfig, sound_files
    from carrara.features.parquet import write_embeddings
    from carrara.nn.device import pick_device

    began = time.perf_counter()
    how = parse_settings(
        EmbedConfig, {"per": per, "layer": layer, "window_seconds": window, "hop_seconds": hop}, "embed"
    )
    files = sound_files(paths)
    place = pick_device(device)
    hearing = changed(load(encoder), assignments(changes or [])).to(place)
    written = write_embeddings(hearing, files, output, how, place, batch_size)
    _tell(written, output, time.perf_counter() - began, as_json)
    if written.failed:
        raise typer.Exit(1)


def _tell(written: EmbedReport, output: Path, seconds: float, as_json: bool) -> None:
    for reason in written.failed.values():
        typer.echo(f"carrara embed: {reason}", err=True)
    done = written.heard + written.kept
    if as_json:
        summary = {
            "output": str(output) if done else None,
            "rows": written.rows,
            "files": done,
            "heard": written.heard,
            "kept": written.kept,
            "failed": written.failed,
            "seconds": round(seconds, 3),
        }
        typer.echo(json.dumps(summary, ensure_ascii=False))
    elif done:
        typer.echo(f"{output}\t{written.rows} rows of {done} files")
    typer.echo(
        f"{written.heard} files heard, {written.kept} there already, {len(written.failed)} failed, {seconds:.1f} s",
        err=True,
    )
