"""`carrara tag`: the styles and other tags that a tagger hears in recordings, over time."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from carrara.features.embed import EmbedConfig
    from carrara.features.tags import Tagger, TrackTags

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
    over_time: Annotated[bool, typer.Option("--over-time", help="Print a line for each window too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON, windows too.")] = False,
) -> None:
    """Tell the styles of recordings, and how probable they are along each.

    - `carrara tag song.mp3`
    - `carrara tag song.mp3 --over-time --top 3`
    - `carrara tag ~/Music -e maest-10s --hop 5 --top 10 -o styles`
    - `carrara tag song.mp3 -e musicnn-msd --window 10`
    - `carrara tag song.mp3 -e my-maest --labels labels.json --json`

    Prints a line for each recording and style: path, style, mean probability, where it is strongest; with --over-time
    then a table of these styles, a line a window. The folder gets probabilities.parquet (every style in every window,
    in the order of `labels` in styles.json), styles.csv, styles.json and a picture of each recording; what it holds
    from earlier calls stays. The same command goes on where it was stopped, and hears only what is new.
    """
    from carrara.features.embed import sound_files
    from carrara.nn.device import pick_device

    files, place = sound_files(paths), pick_device(device)
    hearing, names = _tagger(encoder, changes or [], labels)
    how = _how(hearing, window, hop)
    former = _former(output, hearing, how) if output else {}
    with ExitStack() as stack:
        folder = output or Path(stack.enter_context(TemporaryDirectory()))
        found, failed = _hear(hearing, files, folder / TABLE, (how, place, batch_size))
    named = {str(path) for path in files} - set(failed)
    summary = _summary(hearing, found, names, top, failed)
    own = [track for track in found if track.path in named]
    if output and own:
        _keep(output, found, summary, named, former)
    _print(summary, own, over_time, as_json)
    if failed:
        raise typer.Exit(1)


def _tagger(encoder: str, changes: list[str], labels: Path | None) -> tuple[Tagger, tuple[str, ...]]:
    from carrara.core.settings import assignments
    from carrara.encoders._hub.load import load
    from carrara.encoders._hub.reconfigure import changed
    from carrara.features.tags import tagger

    return tagger(changed(load(encoder), assignments(changes)), labels)


def _how(hearing: Tagger, window: float | None, hop: float | None) -> EmbedConfig:
    """Return the windows in full, so that naming the default is the same as leaving it out."""
    from carrara.core.settings import parse_settings
    from carrara.features.embed import EmbedConfig

    seconds = window or hearing.card.window_seconds
    return parse_settings(
        EmbedConfig, {"per": "window", "layer": "0", "window_seconds": seconds, "hop_seconds": hop or seconds}, "tag"
    )


def _former(folder: Path, hearing: Tagger, how: EmbedConfig) -> dict[str, str]:
    """Return the pictures by recording that a folder has, if what it holds was made as it would be now."""
    from carrara.features.tags import agree_with_table, told_pictures

    agree_with_table(folder / TABLE, hearing, how)
    return told_pictures(folder)


def _hear(
    hearing: Tagger, files: list[Path], table: Path, manner: tuple[EmbedConfig, str, int | None]
) -> tuple[list[TrackTags], dict[str, str]]:
    """Return everything that the table then holds, and by path why the rest was not heard."""
    from carrara.features.tags import complete, too_short, read_tracks

    failed = too_short(files, hearing.encoder)
    long = [path for path in files if str(path) not in failed]
    written = complete(hearing, long, table, *manner)
    return list(read_tracks(table)) if table.exists() else [], failed | written.failed


def _summary(
    hearing: Tagger, found: list[TrackTags], names: tuple[str, ...], top: int, failed: dict[str, str]
) -> dict[str, Any]:
    from carrara.features.tags import told

    recordings = [told(track, names, top) for track in found]
    return {"encoder": hearing.encoder.card.name, "labels": names, "recordings": recordings, "failed": failed}


def _keep(folder: Path, found: list[TrackTags], summary: dict[str, Any], named: set[str], former: dict[str, str]) -> None:
    """Write what is told, with the name of each recording's picture, and draw what is named or has no picture yet."""
    from carrara.cli._tag_plot import picture_names, style_picture
    from carrara.core.progress import track as shown
    from carrara.features.tags import write_told

    pictures = picture_names(folder, [track.path for track in found], former)
    summary["recordings"] = [
        {"path": recording["path"], "picture": pictures[recording["path"]], **recording}
        for recording in summary["recordings"]
    ]
    write_told(folder, summary)
    wanted = [one for one in found if one.path in named or not (folder / pictures[one.path]).exists()]
    count = len(summary["recordings"][0]["styles"])
    for one in shown(wanted, "drawing pictures"):
        style_picture(folder / pictures[one.path], one, summary["labels"], count)


def _print(summary: dict[str, Any], own: list[TrackTags], over_time: bool, as_json: bool) -> None:
    """Print what is told of the recordings of this call."""
    for reason in summary["failed"].values():
        typer.echo(f"carrara tag: {reason}", err=True)
    told = {recording["path"]: recording for recording in summary["recordings"]}
    recordings = [told[track.path] for track in own]
    if as_json:
        typer.echo(json.dumps({**summary, "recordings": recordings}, ensure_ascii=False))
        return
    for recording, track in zip(recordings, own):
        for one in recording["styles"]:
            style, probability = one["style"], one["probability"]
            typer.echo(f"{recording['path']}\t{style}\t{probability:.3f}\t{one['strongest_at']:.1f} s")
        if over_time:
            _print_windows(track, [one["style"] for one in recording["styles"]])


def _print_windows(track: TrackTags, styles: list[str]) -> None:
    """Print how probable a recording's most probable styles are, a line a window below their names."""
    typer.echo("\t".join([track.path, "start", *styles]))
    for start, probability_K in zip(track.start_W, track.probability_WK[:, track.top(len(styles))]):
        typer.echo("\t".join([track.path, f"{start:.1f} s", *(f"{value:.3f}" for value in probability_K)]))
