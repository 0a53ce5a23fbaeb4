"""`carrara new`: write a file to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from carrara.cli._echo import echo


def new(
    kind: Annotated[Literal["task"], typer.Argument(help="What to write: task, a task file of a folder of yours.")],
    folder: Annotated[
        Path,
        typer.Argument(
            help="Recordings with labels.csv or metadata.csv, a folder for each class, or text files beside."
        ),
    ],
    label: Annotated[str | None, typer.Option(help="The column to predict; by default the first that can be.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file; by default FOLDER.toml here; - prints it.")
    ] = None,
) -> None:
    """Write a task file of your own recordings, with comments on what was seen: labels, counts, splits.

    - `carrara new task my-music`
    - `carrara new task my-music --label mood -o mood.toml`
    - `carrara new task recordings-by-instrument -o -`

    `carrara show folder` explains the layouts; `carrara bench ENCODER -t FILE.toml` measures an encoder on the task.
    """
    from carrara.bench.suggest_task import bench_command, suggest_task, task_file_text
    from carrara.cli._outputs import check_ending
    from carrara.core.errors import DataError, UsageError
    from carrara.core.io import write_text

    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder")
    is_printed = str(output) == "-"
    path = Path(f"{folder.resolve().name}.toml") if output is None or is_printed else output
    check_ending(path, (".toml",))
    suggestion = suggest_task(folder, label)
    text = task_file_text(suggestion, folder, path)
    if is_printed:
        echo(text, nl=False)
        return
    if path.exists():
        raise UsageError(f"{path}: exists already; name another file with -o")
    write_text(path, text)
    echo(str(path))
    echo(f"`{bench_command(suggestion.task_type, path)}` measures an encoder on it", err=True)
