"""The demo: every step of the house in one run, each of which resumes.

Pebble is rendered; a small MERT-v0 is pre-trained on its unlabelled part; the constrained protocol asks Pebble's rows
of four systems: that model, the same network at random initialisation, hand-crafted chroma and MFCC statistics, and
noise that hears nothing; the board is printed and a self-contained report written.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import typer

from carrara.core.record import Record

RECIPE, SCALE, SIZE = "mert-v0", "tiny", "demo"
TASKS = (
    "pebble/key",
    "pebble/pitch",
    "pebble/beats",
    "pebble/genre",
    "pebble/moods",
    "pebble/emotion",
    "pebble/instrument",
    "pebble/technique",
)


def run(output: Path, data_dir: Path | None, steps: int | None) -> None:
    """Take every step that is not yet taken, print the board, write `output/report.html`.

    Raises:
        CarraraError: a step failed; what was done stays, and the same command goes on.
    """
    began = time.monotonic()
    root = _render(data_dir)
    model = _pretrain(root, output / "mert", steps)
    records = _measure(model, data_dir, output / "results")
    report = _report(records, root, model, output)
    _board(records)
    minutes = (time.monotonic() - began) / 60
    typer.echo(f"\n{report} holds the plots; this run took {minutes:.1f} minutes. On your own music, try:", err=True)
    typer.echo(f"  carrara embed ~/Music -e {model} -o music.parquet          # features of your recordings", err=True)
    typer.echo(f"  carrara pretrain {RECIPE} --scale {SCALE} --corpus ~/Music -o my-mert  # train on them", err=True)
    results = output / "results"
    typer.echo(f"  carrara bench my-mert --suite pebble -o {results} && carrara board {results}", err=True)


def _render(data_dir: Path | None) -> Path:
    from carrara.data import REGISTRY

    _say(1, "rendering Pebble, the synthetic suite")
    dataset = REGISTRY.get("pebble")
    root = dataset.root(data_dir, SIZE)
    dataset.get(root, SIZE)
    return root


def _pretrain(root: Path, folder: Path, steps: int | None) -> Path:
    from carrara.data import REGISTRY
    from carrara.pretrain.run import pretrain

    _say(2, f"pre-training {RECIPE} at scale {SCALE} on its unlabelled part")
    corpus = [clip.path for clip in REGISTRY.get("pebble").clips(root, "unlabelled")]
    return pretrain(RECIPE, corpus, folder, scale=SCALE, steps=steps, resume=True)


def _measure(model: Path, data_dir: Path | None, results: Path) -> list[Record]:
    from carrara.bench.run import bench
    from carrara.encoders._hub.load import load

    records: list[Record] = []
    for spec in (str(model), f"{model}:random", "chroma-mfcc", "noise"):
        encoder = load(spec)
        _say(3, f"measuring {encoder.card.name} on {len(TASKS)} rows")
        records += bench(encoder, TASKS, data_dir=data_dir, results=results)
    return records


def _report(records: list[Record], root: Path, model: Path, output: Path) -> Path:
    from carrara.bench.report.page import write_report

    _say(4, "writing the report")
    return write_report(
        output / "report.html", records, journal=model / "journal.jsonl", example=_example(root), title="Carrara demo"
    )


def _example(root: Path) -> dict[str, Any]:
    from carrara.audio.decode import load
    from carrara.data import REGISTRY

    clip = next(clip for clip in REGISTRY.get("pebble").clips(root, "songs") if clip.split == "test")
    return {"samples": load(clip.path, 24_000), "sample_rate": 24_000, "labels": clip.labels, "name": clip.id}


def _board(records: list[Record]) -> None:
    from carrara.bench.leaderboard.ranking import board
    from carrara.bench.leaderboard.text import table

    table(board(records))


def _say(number: int, text: str) -> None:
    typer.secho(f"{number}/4 {text}", err=True, bold=True)
