"""`carrara embed`: embeddings of recordings, as a Parquet file or a folder of Parquet parts."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from carrara.cli._completion import complete_names
from carrara.cli._echo import echo

if TYPE_CHECKING:
    from carrara.features.parquet import EmbedReport

EMBED_ENDINGS = (".parquet", ".csv", ".npy", ".arrow", ".feather", ".lance", ".faiss", ".index", "")
CLUSTER = "Cluster"
READERS = 8  # of remote files; a store answers slowly and several requests at once
LOCAL_READERS = 2  # enough where the same cores encode; a GPU waits for all cores
MAX_LIKE_PROBLEMS = 20  # of more files with the same problem the first stands for all

Output = Annotated[
    str,  # a Path would lose the slash of a folder
    typer.Option(
        "--output",
        "-o",
        metavar="OUT",
        help="OUT.parquet, or a folder for Parquet parts (OUT/); OUT.index for find; OUT.csv, OUT.npy (with "
        "OUT.rows.csv), OUT.arrow, OUT.lance, OUT.faiss; or - for CSV on standard output.",
    ),
]
Paths = Annotated[
    list[Path] | None,
    typer.Argument(
        help="Audio files, folders of them, quoted patterns ('music/**/*.mp3'), and manifests: .csv or .parquet with a "
        "column path. Each may be remote: s3://, gs://, hf://, https://."
    ),
]
Layer = Annotated[
    str,
    typer.Option(
        help="0 to L; last; mean (over 0 to L); cnn (convolutional features); joint (for texts); all (a row per layer)."
    ),
]
Hop = Annotated[
    float | None,
    typer.Option(
        min=0.01, help="Seconds from window to window; by default a window; with --per frame windows overlap."
    ),
]
Sample = Annotated[
    str | None,
    typer.Option(metavar="NxSECONDS", help="Encode only N excerpts of each recording, such as 3x10, read by seeking."),
]
NumShards = Annotated[int, typer.Option(min=1, help="Divide the recordings among so many runs; see --shard-index.")]
ShardIndex = Annotated[
    int | None,
    typer.Option(min=0, help="Which part this run embeds, from 0, into its own folder in -o. Give all the same paths."),
]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Embed on a Ray cluster: its address, auto for the one that runs here, local to start one.",
        rich_help_panel=CLUSTER,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Ray's actors; by default one a GPU, or a CPU.", rich_help_panel=CLUSTER),
]
GpusPerWorker = Annotated[
    float, typer.Option(min=0, help="GPUs of an actor, such as 0.5 or 1.", rich_help_panel=CLUSTER)
]
Threads = Annotated[int | None, typer.Option(min=1, help="Most threads of each pool; by default all cores.")]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Drop recordings that are not named, and an output made with other settings."),
]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Windows of a batch; by default a number that suits the device.")
]
FilesFrom = Annotated[
    str | None, typer.Option(metavar="LIST", help="Also the paths in this text file, one a line; - is stdin.")
]
WindowSeconds = Annotated[
    float | None, typer.Option(min=0.01, help="Seconds of a window; by default the encoder's own, or 30.")
]
Changes = Annotated[
    list[str] | None, typer.Option("--set", help="Change a setting of the encoder, such as tokens=frames.")
]
EncoderName = Annotated[
    str,
    typer.Option(
        "--encoder",
        "-e",
        help="Registry name, folder or hub id; also NAME:random and NAME:int8.",
        autocompletion=complete_names("encoders"),
    ),
]


def embed(
    encoder: EncoderName,
    output_name: Output,
    paths: Paths = None,
    files_from: FilesFrom = None,
    per: Annotated[
        Literal["clip", "window", "frame"], typer.Option(help="One row per recording (clip), window or frame.")
    ] = "clip",
    layer: Layer = "mean",
    window: WindowSeconds = None,
    hop: Hop = None,
    sample: Sample = None,
    num_shards: NumShards = 1,
    shard_index: ShardIndex = None,
    threads: Threads = None,
    ray: Ray = None,
    workers: Workers = None,
    gpus_per_worker: GpusPerWorker = 0.0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    batch_size: BatchSize = None,
    changes: Changes = None,
    overwrite: Overwrite = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Embed recordings and write a Parquet file, a folder of Parquet parts, CSV or a NumPy array.

    - `carrara embed ~/Music -e chroma-mfcc -o music.parquet`
    - `carrara embed ~/Music -e chroma-mfcc -o music/`
    - `carrara embed song.mp3 ~/Music -e mert-v1-95m:random -o song.parquet --per frame --layer 5`
    - `carrara embed ~/Music -e muq-mulan --layer joint -o music.parquet` (for `carrara find --text`)
    - `carrara embed songs.csv -e mfcc -o songs/ --sample 3x10 --num-shards 8 --shard-index 0`
    - `carrara embed s3://bucket/music -e mfcc -o music/`
    - `carrara embed songs.parquet -e mfcc -o songs/ --ray auto --workers 64`
    - `find ~/Music -newer last | carrara embed --files-from - -e mfcc -o new.csv`

    Columns: path, start, duration (s), layer, embedding. A file that cannot be decoded is reported with the reason, the
    rest go on, and the exit code is 1. The same command run again continues where it stopped and embeds only new and
    changed recordings. In Parquet, recordings that are not named or not readable any more keep their rows; CSV and
    NumPy files are written anew, and refused where that would drop a recording. --overwrite drops them in any format.
    """
    from carrara.audio.files import check_paths, list_audio_files, select_shard
    from carrara.cli._checks import check_encoder
    from carrara.core.errors import UsageError
    from carrara.core.settings import parse_assignments, parse_settings
    from carrara.core.storage import is_remote
    from carrara.features.embed_config import EmbedConfig
    from carrara.nn.device import check_device, limit_threads, pick_device

    # Whatever can be wrong in the command is looked at before torch is imported.
    named = [*(paths or ()), *read_list(files_from)]
    if not named:
        raise UsageError("there is nothing to embed; give files or folders, or a list with --files-from")
    check_paths(named)
    output = _parse_output(output_name, shard_index is not None, as_json)
    _check_division(num_shards, shard_index, ray is None and (workers is not None or gpus_per_worker > 0))
    assignments = parse_assignments(changes or [])
    check_encoder(encoder, assignments)
    check_device(device)
    values = {"per": per, "layer": layer, "window_seconds": window, "hop_seconds": hop, "sample": sample}
    config = parse_settings(EmbedConfig, values, "embed")
    files = list_audio_files(named)
    if shard_index is not None:
        files = select_shard(files, num_shards, shard_index)
        output = output / f"shard-{shard_index:05d}-of-{num_shards:05d}"

    from carrara.encoders._hub.load import load, with_settings
    from carrara.features.ray_pool import RayCluster
    from carrara.features.table_files import write_table

    start = time.perf_counter()
    device = pick_device(device)
    limit_threads(threads)
    network = with_settings(load(encoder), assignments)
    readers = count_readers(device, any(is_remote(str(path)) for path in files), threads)
    cluster = RayCluster(ray, workers, threads or 1, gpus_per_worker) if ray else None
    report = write_table(network, files, output, config, device, batch_size, overwrite, readers, cluster)
    _print_report(report, output, time.perf_counter() - start, as_json)
    if report.failed:
        raise typer.Exit(1)


def count_readers(device: str, has_remote: bool, threads: int | None) -> int:
    """Return how many recordings are read at once."""
    readers = LOCAL_READERS if device == "cpu" else min(os.cpu_count() or 1, 16)
    readers = max(readers, READERS) if has_remote else readers
    return min(threads or readers, readers)


def _parse_output(name: str, is_sharded: bool, as_json: bool) -> Path:
    """Return -o as a path.

    Raises:
        UsageError: it is remote, its ending is unknown, it is no folder for shards, or an empty folder without a slash,
            or it would share standard output with the summary.
    """
    from carrara.cli._outputs import check_ending
    from carrara.core.errors import UsageError
    from carrara.core.storage import is_remote, normalize

    if is_remote(normalize(name)):
        raise UsageError(f"-o {name}: outputs are local; give a local path and copy it there")
    output = Path(name)
    check_ending(output, EMBED_ENDINGS)
    if as_json and name == "-":
        raise UsageError("-o - and --json would both write to standard output; leave one out")
    if is_sharded and (output.suffix or name == "-"):
        raise UsageError(f"-o {output}: with --num-shards give a folder; each shard writes its own inside")
    if not is_sharded and not name.endswith(os.sep) and output.is_dir() and not any(output.iterdir()):
        raise UsageError(
            f"-o {output}: an empty folder; give {output}{os.sep} for Parquet parts in it, or {output / 'NAME.parquet'}"
        )
    return output


def _check_division(num_shards: int, shard_index: int | None, lacks_cluster: bool) -> None:
    """Check the options that divide the work.

    Raises:
        UsageError: no such shard, or options of Ray without --ray.
    """
    from carrara.core.errors import UsageError

    if (shard_index is None) != (num_shards == 1) or (shard_index or 0) >= num_shards:
        raise UsageError(f"--shard-index: give one from 0 to {num_shards - 1} with --num-shards {num_shards}")
    if lacks_cluster:
        raise UsageError("--workers and --gpus-per-worker are Ray's; give --ray local, auto or an address too")


def read_list(source: str | None) -> list[Path]:
    """Return the paths in a text file, one a line; of standard input for `-`, none for None.

    Raises:
        UsageError: it cannot be read as text.
    """
    from carrara.core.errors import UsageError

    if source is None:
        return []
    try:
        text = sys.stdin.read() if source == "-" else Path(source).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise UsageError(f"--files-from {source}: cannot be read ({problem})") from None
    return [Path(line) for line in text.replace("\r\n", "\n").split("\n") if line.strip()]


def _print_report(report: EmbedReport, output: Path, seconds: float, as_json: bool) -> None:
    alike: dict[str, list[str]] = {}
    for path, reason in report.failed.items():
        alike.setdefault(reason.replace(path, ""), []).append(path)
    kept_paths = set(report.kept)
    for paths in alike.values():
        for path in paths if len(paths) <= MAX_LIKE_PROBLEMS else paths[:1]:
            kept = "; its former rows are kept" if path in kept_paths else ""
            more = "" if len(paths) <= MAX_LIKE_PROBLEMS else f" (and so {len(paths) - 1:,} others; --json names them)"
            echo(f"carrara embed: {report.failed[path]}{kept}{more}", err=True)
    others = [path for path in report.kept if path not in report.failed]
    if others:
        count = f"{len(others)} recordings that were not named" if len(others) > 1 else others[0]
        echo(f"kept the rows of {count}; --overwrite drops them", err=True)
    if as_json:
        summary = {
            "output": str(output) if report.rows else None,
            "rows": report.rows,
            "files": report.recordings,
            "embedded": report.embedded,
            "reused": report.reused,
            "kept": len(report.kept),
            "failed": report.failed,
            "seconds": round(seconds, 3),
        }
        # A name that is not UTF-8 keeps its bytes as JSON's own escapes.
        echo(json.dumps(summary, ensure_ascii=False).encode("utf-8", "backslashreplace").decode())
    elif report.rows and str(output) != "-":
        echo(f"{output}\t{report.rows} rows of {report.recordings} files")
    counts = f"{report.embedded} files embedded, {report.reused} reused, {len(report.failed)} failed"
    echo(f"{counts}, {seconds:.1f} s", err=True)
