"""The demo: render, pre-train, measure and report in one run, each step of which resumes.

Four systems are measured under the constrained protocol: a network on CQT, mel and chroma, pre-trained by contrastive
pairs, the same network with random weights, hand-crafted chroma and MFCC statistics, and noise that does not depend on
the audio.
"""

from __future__ import annotations

import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from carrara.cli._echo import echo
from carrara.core.record import Record

if TYPE_CHECKING:
    from carrara.encoders._base import Encoder

RECIPE, SCALE, SIZE = "contrastive", "tiny", "demo"
MODEL = "cqt-mel"  # folder and name of the pre-trained network
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
SAMPLE_RATE = 24_000
MAP_TASK = "pebble/genre"


def run_demo(output: Path, data_dir: Path | None, steps: int | None) -> None:
    """Run every step that is not done yet, print the leaderboard and what it means, and write `output/report.html`.

    Raises:
        CarraraError: a step failed; the same command continues with it.
    """
    from carrara.bench.leaderboard.ranking import build_leaderboard
    from carrara.bench.leaderboard.tables import print_leaderboard
    from carrara.bench.report.meaning import explain_systems
    from carrara.bench.run import bench
    from carrara.data import REGISTRY
    from carrara.encoders._hub.load import load

    start = time.monotonic()
    pebble = REGISTRY.get("pebble")
    root = pebble.root(data_dir, SIZE)
    is_rendered = (root / "index.jsonl").is_file()
    _print_step(1, "rendering Pebble, the synthetic suite", is_rendered, f"it is in {root}")
    pebble.download(root, SIZE)

    folder = output / MODEL
    is_trained = _is_trained(folder, steps)
    _print_step(2, f"pre-training {RECIPE} at scale {SCALE} on its unlabelled part", is_trained, f"it is in {folder}")
    model = folder
    if not is_trained:
        from carrara.pretrain.run import pretrain

        corpus = [clip.path for clip in pebble.clips(root, "unlabelled")]
        model = pretrain(RECIPE, corpus, folder, scale=SCALE, steps=steps, resume=True)

    results = output / "results"
    before = set(results.rglob("*.json"))
    records: list[Record] = []
    encoders: dict[str, Encoder] = {}
    for spec in (str(model), f"{model}:random", "chroma-mfcc", "noise"):
        encoder = load(spec)
        encoders[encoder.card.name] = encoder
        _print_step(3, f"measuring {encoder.card.name} on {len(TASKS)} tasks")
        new = bench(encoder, TASKS, data_dir=data_dir, results=results)
        if done := sum(record.path(results) in before for record in new):
            echo(f"    {done} of {len(new)} records were there", err=True)
        records += new

    report = output / "report.html"
    newest = max(record.path(results).stat().st_mtime_ns for record in records)
    is_written = report.is_file() and report.stat().st_mtime_ns > newest
    _print_step(4, "writing the report", is_written, f"it is {report}")
    if not is_written:
        _write_report(report, records, encoders, results, model, data_dir)
    leaderboard = build_leaderboard(records)
    print_leaderboard(leaderboard)
    echo("\nWhat it means:")
    for sentence in explain_systems(leaderboard).values():
        echo(textwrap.fill(sentence, 100, initial_indent="- ", subsequent_indent="  "))
    seconds = time.monotonic() - start
    duration = f"{seconds / 60:.1f} minutes" if seconds > 100 else f"{seconds:.0f} seconds"
    echo(
        f"""
{report} has the plots and plays example clips; this run took {duration}. Next:
  carrara compare {MODEL} chroma-mfcc --results {results}  # on which tasks do they differ?
  carrara embed ~/Music -e {model} -o music.parquet  # features of your own recordings
  carrara pretrain {RECIPE} --scale {SCALE} --corpus ~/Music -o my-model  # a model of your own
  carrara bench my-model --suite pebble -o {results}  # measure it
  carrara leaderboard {results}""",
        err=True,
    )


def _write_report(
    path: Path, records: list[Record], encoders: dict[str, Encoder], results: Path, model: Path, data_dir: Path | None
) -> None:
    """Write the report with an example of each collection and a map of the features of each network."""
    import numpy as np

    from carrara.audio.decode import load_audio
    from carrara.bench.report.page import write_report
    from carrara.bench.report.plots import best_by_layer
    from carrara.bench.task_data import FeatureProvider
    from carrara.bench.task_types import REGISTRY as TASK_TYPES
    from carrara.bench.tasks import task as get_task
    from carrara.core.strict_json import read_json_object
    from carrara.data import REGISTRY
    from carrara.features.windows import WindowSpec
    from carrara.pretrain.metrics_log import LOG_FILE, read_metrics

    pebble = REGISTRY.get("pebble")
    examples = []
    for scheme in ("songs", "notes", "technique"):
        clip = next(clip for clip in pebble.clips(pebble.root(data_dir, SIZE), scheme) if clip.split == "test")
        samples = load_audio(clip.path, SAMPLE_RATE)
        examples.append({"samples": samples, "sample_rate": SAMPLE_RATE, "labels": clip.labels, "name": clip.id})

    maps = []
    for record in records:
        if record.task.name == MAP_TASK and record.encoder.parameters:
            layers = {name: score for name, score in best_by_layer(record.grid).items() if name.isdecimal()}
            layer = max(layers, key=lambda name: layers[name])
            provider, task = FeatureProvider(encoders[record.encoder.name], data_dir), get_task(MAP_TASK)
            test = provider.load(task, TASK_TYPES.get(task.task_type), WindowSpec(), ("test",)).splits["test"]
            features = np.stack([test.layers[layer][rows].mean(0) for rows in test.rows_U])
            labels = [clip.labels[task.label] for clip in test.clips]
            maps.append({"features": features, "labels": labels, "title": f"{record.encoder.name}, layer {layer}"})

    seed = read_json_object(model / "run.json")["recipe"]["seed"]
    write_report(
        path, records, metrics=read_metrics(model / LOG_FILE), examples=examples, title="Carrara demo", results=results,
        maps=maps, seeds={
            "pre-training": f"{seed}: weights, order of the crops, views",
            f"{MODEL}:random": "0",
            "Pebble": "the number of each clip",
        },
    )  # fmt: skip


def _is_trained(folder: Path, steps: int | None) -> bool:
    """Return whether a pre-training of so many steps, None for the recipe's, reached the last."""
    from carrara.core.strict_json import read_json_object
    from carrara.pretrain.metrics_log import LOG_FILE, read_metrics
    from carrara.pretrain.recipes._base import resolve

    log, plot = folder / LOG_FILE, folder / "metrics.png"
    # A run draws its log when all else is saved.
    if not (log.is_file() and plot.is_file() and plot.stat().st_mtime_ns >= log.stat().st_mtime_ns):
        return False
    metrics = read_metrics(log)
    planned = read_json_object(folder / "run.json")["recipe"]["steps"]
    return planned == (steps or resolve(RECIPE, SCALE).steps) == (metrics[-1].get("step") if metrics else None)


def _print_step(number: int, text: str, is_done: bool = False, where: str = "") -> None:
    line = f"{number}/4 {text}: done before, {where}" if is_done else f"{number}/4 {text}"
    typer.secho(line, err=True, bold=not is_done)
