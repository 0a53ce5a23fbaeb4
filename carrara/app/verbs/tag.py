"""`carrara tag`: the styles and other tags that a tagger hears in recordings, over time."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from carrara.features.embed import How
    from carrara.features.tags import Tagger, Track

TABLE = "probabilities.parquet"


def tag(
    paths: Annotated[list[Path], typer.Argument(help="Sound files and folders of them, of any format and length.")],
    encoder: Annotated[
        str,
        typer.Option("--encoder", "-e", help="A tagger (maest-…, musicnn-…, effnet-discogs): name, folder or hub id."),
    ] = "maest-30s",
    top: Annotated[int, typer.Option(min=1, help="How many styles are told, the most probable first.")] = 5,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A folder for tables and pictures, made or completed.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="A JSON file with the names of the styles, where the encoder has none.")
    ] = None,
    window: Annotated[
        float | None, typer.Option(min=0.3, help="Seconds of a window; by default the encoder's, or 3.")
    ] = None,
    hop: Annotated[
        float | None, typer.Option(min=0.01, help="Seconds from window to window; by default a window.")
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting of the encoder, such as every_column=2.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Windows of a batch; by default as many as the device takes well.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Tell the styles of recordings, and how probable they are along each.

    - `carrara tag song.mp3`
    - `carrara tag ~/Music -e maest-10s --hop 5 --top 10 -o styles`
    - `carrara tag song.mp3 -e musicnn-msd --window 10`
    - `carrara tag song.mp3 -e my-maest --labels labels.json --json`

    Prints a line for each recording and style: path, style, mean probability, where it is strongest. The folder gets
    probabilities.parquet (every style in every window, in the order of `labels` in styles.json), styles.csv,
    styles.json and a picture of each recording. The same command goes on where it was stopped, and hears only what is
    new.
    """
    from carrara.core.settings import assignments, read
    from carrara.encoders._change import changed
    from carrara.encoders._load import load
    from carrara.features.embed import How, sound_files
    from carrara.features.tags import tagger
    from carrara.nn.device import pick_device

    how = read(How, {"per": "window", "layer": "0", "window_seconds": window, "hop_seconds": hop}, "tag")
    files = sound_files(paths)
    place = pick_device(device)
    hearing, names = tagger(changed(load(encoder), assignments(changes or [])), labels)
    with ExitStack() as stack:
        folder = output or Path(stack.enter_context(TemporaryDirectory()))
        found, failed = _hear(hearing, files, folder / TABLE, (how, place, batch_size))
    summary = _summary(hearing.card.name, found, names, top, failed)
    if output:
        _keep(output, found, names, top, summary)
    _print(summary, as_json)
    if failed:
        raise typer.Exit(1)


def _hear(
    hearing: Tagger, files: list[Path], table: Path, manner: tuple[How, str, int | None]
) -> tuple[list[Track], dict[str, str]]:
    """Return what was heard, and why the rest was not, by path."""
    from carrara.features.parquet import write_embeddings
    from carrara.features.tags import too_short, tracks

    failed = too_short(files, hearing.encoder)
    long = [path for path in files if str(path) not in failed]
    written = write_embeddings(hearing, long, table, *manner)
    return list(tracks(table)) if written.rows else [], failed | written.failed


def _summary(
    encoder: str, found: list[Track], names: tuple[str, ...], top: int, failed: dict[str, str]
) -> dict[str, Any]:
    from carrara.features.tags import told

    recordings = [told(track, names, top) for track in found]
    return {"encoder": encoder, "labels": names, "recordings": recordings, "failed": failed}


def _keep(folder: Path, found: list[Track], names: tuple[str, ...], top: int, summary: dict[str, Any]) -> None:
    from carrara.app.style_picture import style_picture
    from carrara.core.progress import track as shown
    from carrara.features.tags import write_told

    write_told(folder, summary)
    taken: Counter[str] = Counter()
    for one in shown(found, "drawing pictures"):
        stem = Path(one.path).stem
        taken[stem] += 1
        number = f"-{taken[stem]}" if taken[stem] > 1 else ""
        style_picture(folder / f"{stem}{number}.png", one, names, top)


def _print(summary: dict[str, Any], as_json: bool) -> None:
    for reason in summary["failed"].values():
        typer.echo(f"carrara tag: {reason}", err=True)
    if as_json:
        typer.echo(json.dumps(summary, ensure_ascii=False))
        return
    for recording in summary["recordings"]:
        for one in recording["styles"]:
            style, probability = one["style"], one["probability"]
            typer.echo(f"{recording['path']}\t{style}\t{probability:.3f}\t{one['strongest_at']:.1f} s")
