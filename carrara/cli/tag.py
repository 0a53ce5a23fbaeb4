"""`carrara tag`: the styles and other tags of recordings, over time."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carrara.cli._echo import echo
from carrara.core.printable import one_line

if TYPE_CHECKING:
    from carrara.features.tags import TrackTags

Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder of tables and pictures; earlier recordings are kept.")
]
Labels = Annotated[
    str | None,
    typer.Option(
        help='What an encoder with a text tower scores: "jazz,heavy metal", or a file, one a line. For other taggers a '
        "JSON file with the names of the tags, where the encoder has none."
    ),
]
WindowSeconds = Annotated[
    float | None, typer.Option("--window", min=0.3, help="Seconds of a window; by default the encoder's, or 3.")
]
Hop = Annotated[float | None, typer.Option(min=0.01, help="Seconds from window to window; by default a window.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", help="Change a setting of the encoder, such as every_column=2.")
]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Windows of a batch; by default a number that suits the device.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON: the tags of the recordings and of their windows.")]


def tag(
    paths: Annotated[list[Path], typer.Argument(help="Audio files and folders of them, of any format and length.")],
    encoder: Annotated[
        str,
        typer.Option(
            "--encoder", "-e", help="A tagger (maest-…, musicnn-…, effnet-discogs, muq-mulan): name, folder or hub id."
        ),
    ] = "maest-30s",
    top: Annotated[int, typer.Option(min=1, help="Number of tags to show, the most probable first.")] = 5,
    output: Output = None,
    labels: Labels = None,
    window: WindowSeconds = None,
    hop: Hop = None,
    changes: Changes = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    batch_size: BatchSize = None,
    over_time: Annotated[bool, typer.Option("--over-time", help="Also print a table with a line per window.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tag recordings: styles and other tags with their probabilities, over time.

    - `carrara tag song.mp3`
    - `carrara tag song.mp3 --over-time --top 3`
    - `carrara tag ~/Music -e maest-10s --hop 5 --top 10 -o tags`
    - `carrara tag song.mp3 -e musicnn-msd --window 10`
    - `carrara tag song.mp3 -e my-maest --labels labels.json --json`
    - `carrara tag song.mp3 -e muq-mulan --labels "jazz,heavy metal"`

    Prints a header and tab-separated lines, one for each recording and tag; its highest probability is at the time
    given in seconds. An encoder with a text tower scores any labels by their similarity (cosine), not by a probability.
    The output folder holds tags.csv, tags.json, a picture of each recording, and probabilities.parquet: every tag in
    every window. The same command run again embeds only new recordings.
    """
    from carrara.audio.files import list_audio_files
    from carrara.core.io import draft_folder
    from carrara.core.settings import parse_assignments
    from carrara.nn.device import pick_device

    # Whatever can be wrong in the command is looked at before torch is imported.
    assignments = parse_assignments(changes or [])
    _check_options(paths, encoder, assignments, device, output, labels)
    files = list_audio_files(paths)

    from carrara.encoders._hub.load import load, with_settings
    from carrara.encoders._text.tower import TextEncoder
    from carrara.features.embed_config import EmbedConfig
    from carrara.features.parquet import write_embeddings
    from carrara.features.tags import find_too_short, make_tagger, read_pictures, read_tracks

    device = pick_device(device)
    network = with_settings(load(encoder), assignments)
    tagger, names = make_tagger(network, labels)
    measure = "similarity" if isinstance(network, TextEncoder) else "probability"
    seconds = window or tagger.card.window_seconds  # never None, so that `--window DEFAULT` continues the same table
    config = EmbedConfig(per="window", layer="0", window_seconds=seconds, hop_seconds=hop or seconds)
    pictures = read_pictures(output) if output else {}
    failed = find_too_short(files, network)
    with ExitStack() as stack:
        table = (output or stack.enter_context(draft_folder())) / "probabilities.parquet"
        usable = [path for path in files if str(path) not in failed]
        report = write_embeddings(tagger, usable, table, config, device, batch_size)
        failed |= report.failed
        tracks = list(read_tracks(table, measure)) if table.exists() else []
    tagged = {str(path) for path in files} - set(failed)
    summaries = {track.path: track.summary(names, top) for track in tracks}
    summary = {"encoder": network.card.name, "labels": names, "recordings": list(summaries.values()), "failed": failed}
    own = [track for track in tracks if track.path in tagged]
    if output and own:
        _write_folder(output, tracks, summary, tagged, pictures)
    _print_problems(failed, report.kept, output)
    if as_json:
        summary["recordings"] = [summaries[track.path] for track in own]
        echo(json.dumps(summary, ensure_ascii=False).encode("utf-8", "backslashreplace").decode())
    else:
        if own:
            echo(f"path\ttag\t{measure}\tstrongest_at_seconds")
        for track in own:
            _print_track(track, summaries[track.path]["tags"], over_time)
    if failed:
        raise typer.Exit(1)


def _check_options(
    paths: list[Path], encoder: str, assignments: dict[str, Any], device: str, output: Path | None, labels: str | None
) -> None:
    from carrara.audio.files import check_paths
    from carrara.cli._checks import check_encoder, check_output_folder
    from carrara.core.errors import UsageError
    from carrara.nn.device import check_device

    check_paths(paths)
    check_encoder(encoder, assignments)
    check_device(device)
    if output is not None:
        check_output_folder(output)
    if labels is not None and labels.endswith(".json") and not Path(labels).is_file():
        raise UsageError(f"--labels {labels}: no such file")


def _write_folder(
    folder: Path, tracks: list[TrackTags], summary: dict[str, Any], tagged: set[str], former: dict[str, str]
) -> None:
    """Write the summaries with the name of each picture; draw the pictures of new recordings and missing ones."""
    from carrara.cli._tag_plot import name_pictures, write_heatmap
    from carrara.core.progress import track as show_progress
    from carrara.features.tags import write_summary

    pictures = name_pictures(folder, [track.path for track in tracks], former)
    for recording in summary["recordings"]:
        recording["picture"] = pictures[recording["path"]]
    write_summary(folder, summary)
    undrawn = [track for track in tracks if track.path in tagged or not (folder / pictures[track.path]).exists()]
    for track in show_progress(undrawn, "drawing pictures"):
        count = len(summary["recordings"][0]["tags"])
        write_heatmap(folder / pictures[track.path], track, summary["labels"], count)


def _print_problems(failed: dict[str, str], kept: list[str], output: Path | None) -> None:
    for path, reason in failed.items():
        echo(f"carrara tag: {reason}{'; its former tags are kept' if path in kept else ''}", err=True)
    if others := [path for path in kept if path not in failed]:
        echo(f"{output} also keeps {len(others)} earlier recordings that were not named", err=True)


def _print_track(track: TrackTags, tags: list[dict[str, Any]], over_time: bool) -> None:
    path = one_line(track.path)  # a name may hold line ends
    for entry in tags:
        echo(f"{path}\t{one_line(entry['tag'])}\t{entry[track.measure]:.3f}\t{entry['strongest_at']:.1f}")
    if over_time:
        echo("\t".join([path, "start_seconds", *(one_line(entry["tag"]) for entry in tags)]))
        for start, probability_K in zip(track.start_W, track.probability_WK[:, track.top(len(tags))]):
            echo("\t".join([path, f"{start:.1f}", *(f"{value:.3f}" for value in probability_K)]))
