"""`carrara check`: compare a dataset on disk with its annotations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carrara.cli._completion import complete_names
from carrara.cli._echo import echo

if TYPE_CHECKING:
    from carrara.data._base import Dataset

MAX_LINES = 20


def check(
    dataset: Annotated[
        str,
        typer.Argument(
            help="A name from `carrara ls data`, a folder of yours with labels, or a task file of yours.",
            autocompletion=complete_names("data"),
        ),
    ],
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the datasets. [env: CARRARA_DATA]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare a dataset on disk with its annotations, expected counts and splits; exit 1 if anything differs.

    - `carrara check pebble`
    - `carrara check pebble --json`
    - `carrara check pebble --data-dir /data/music`
    - `carrara check my-music` or `carrara check mood.toml`, a folder or a task of yours

    Lists files that are missing, extra, unreadable, of a wrong length or duplicated, groups that occur in two splits,
    and what scores on this copy are comparable with. Of your own folder also recordings that share audio,
    whatever their codec, level and start; of a task file also its labels. A file is decoded at its end, or whole where
    its encoder did not count its length (Ogg, AAC without a container, some MP3).
    """
    from carrara.cli._layout import wrap
    from carrara.core.printable import output_width

    definition = _resolve(dataset, data_dir)
    report = definition.check(definition.root(data_dir))
    if as_json:
        echo(report.model_dump_json(indent=1))
    else:
        echo(f"{dataset}: {report.found} clips found, {len(report.missing)} missing, {len(report.extra)} extra files")
        for scheme, counts in report.counts.items():
            echo(f"  {scheme}: " + ", ".join(f"{split} {count:,}" for split, count in counts.items()))
        faults = {
            "missing": list(report.missing),
            "extra": list(report.extra),
            "unreadable": list(report.unreadable.values()),
            "wrong length": [f"{clip}: {lengths}" for clip, lengths in report.wrong_length.items()],
            "duplicates": [" = ".join(ids) for ids in report.duplicates],
            "copies": list(report.copies),
            "count differs": list(report.differing),
            "leak": [f"{leak.group} is in {' and '.join(leak.splits)} of {leak.split_scheme}" for leak in report.leaks],
        }
        for kind, lines in faults.items():
            for line in lines[:MAX_LINES]:
                echo(f"  {kind}: {line}")
            if len(lines) > MAX_LINES:
                echo(f"  {kind}: and {len(lines) - MAX_LINES} more (--json lists all)")
        if absent := definition.absent_parts(definition.root(data_dir)):
            echo(f"  {absent}")
        echo("  scores on this copy:")
        for line in _group_comparability(report.comparability):
            echo(wrap(f"    {line}", output_width(), 6 * " "))
        echo(f"  {'complete and correct' if report.ok else 'not as expected'}")
    if not report.ok:
        raise typer.Exit(1)


def _group_comparability(comparability: dict[str, str]) -> list[str]:
    """Return what scores are comparable with, once for all split schemes of which the same is said."""
    schemes: dict[str, list[str]] = {}
    for scheme, text in comparability.items():
        schemes.setdefault(text.replace(f"{scheme} split", "{schemes}", 1), []).append(scheme)
    lines = []
    for text, same in schemes.items():
        word = "split" if len(same) == 1 else "splits"
        lines.append(text.replace("{schemes}", f"{', '.join(same)} {word}", 1))
    return lines


def _resolve(name: str, data_dir: Path | None) -> Dataset:
    """Return the dataset of a name, a folder or a task file, whose labels are checked too.

    Raises:
        UsageError: there is none.
        DataError: the labels of the task cannot be used.
    """
    from carrara.core.errors import UsageError
    from carrara.data import REGISTRY
    from carrara.data.folder import FolderDataset

    path = Path(name).expanduser()
    if name.replace("_", "-") in REGISTRY.names():
        return REGISTRY.get(name)
    if path.is_dir():
        return FolderDataset(path)
    if path.suffix in (".toml", ".py"):
        from carrara.bench import task_types
        from carrara.bench.task_file import read_task

        task, own = read_task(path)
        dataset = own or REGISTRY.get(task.dataset)
        task_type = task_types.REGISTRY.get(task.task_type)
        task_type.check(task)
        clips = dataset.clips(dataset.root(data_dir), task.split_scheme)
        task_type.truths(task, [clip for clip in clips if clip.split])
        return dataset
    if "/" in name or path.exists():
        raise UsageError(f"{name}: no such folder or task file; give one, or a name from `carrara ls data`")
    return REGISTRY.get(name)
