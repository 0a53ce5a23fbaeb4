"""The demo: render, pre-train, measure and report in one run, each step of which resumes.

A network this small is trained on one core; another process measures the systems that need no training meanwhile.

Four systems are measured under the constrained protocol: a network on CQT, mel and chroma, pre-trained by contrastive
pairs, the same network with random weights, hand-crafted chroma and MFCC statistics, and noise that does not depend on
the audio.
"""

from __future__ import annotations

import multiprocessing
import os
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from carrara.cli._echo import echo
from carrara.core.interrupts import end_with_parent
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
UNTRAINED = ("chroma-mfcc", "noise")
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
    from carrara.bench.suites import SUITES
    from carrara.bench.tasks import task as get_task
    from carrara.data import REGISTRY
    from carrara.encoders._hub.load import load

    start = time.monotonic()
    pebble = REGISTRY.get("pebble")
    root = pebble.root(data_dir, SIZE)
    is_rendered = (root / "index.jsonl").is_file()
    _print_step(1, "rendering Pebble, the synthetic suite", is_rendered, f"it is in {root}")
    # Nothing that only other suites need; the suite is what the last lines propose.
    schemes = {get_task(name).split_scheme for name in SUITES["pebble"].tasks}
    pebble.download(root, SIZE, {*schemes, "unlabelled"})

    folder, results = output / MODEL, output / "results"
    before = set(results.rglob("*.json"))
    is_trained = _is_trained(folder, steps)
    text = f"pre-training {RECIPE} at scale {SCALE} on its unlabelled part"
    text += "" if is_trained else f"; {' and '.join(UNTRAINED)} are measured beside it"
    _print_step(2, text, is_trained, f"it is in {folder}")
    records: list[Record] = []
    encoders: dict[str, Encoder] = {}
    with nullcontext() if is_trained else _measure_beside(UNTRAINED, data_dir, results) as other_process:
        model = folder
        if not is_trained:
            from carrara.pretrain.run import pretrain

            corpus = [clip.path for clip in pebble.clips(root, "unlabelled")]
            model = pretrain(RECIPE, corpus, folder, scale=SCALE, steps=steps, resume=True)

        for spec in (str(model), f"{model}:random", *UNTRAINED):
            encoder = load(spec)
            encoders[encoder.card.name] = encoder
            _print_step(3, f"measuring {encoder.card.name} on {len(TASKS)} tasks")
            if spec in UNTRAINED and other_process:
                other_process.join()
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


@contextmanager
def _measure_beside(specs: Sequence[str], data_dir: Path | None, results: Path) -> Iterator[BaseProcess]:
    """Measure systems in another process, which is ended with the context."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_measure_silently, args=(specs, TASKS, data_dir, results))
    process.start()
    try:
        yield process
    finally:
        process.terminate()
        process.join()


def _measure_silently(specs: Sequence[str], tasks: Sequence[str], data_dir: Path | None, results: Path) -> None:
    """Measure systems on one core without a word; the first process measures what fails here, and says why."""
    end_with_parent()
    with open(os.devnull, "w") as silence:
        os.dup2(silence.fileno(), 1)
        os.dup2(silence.fileno(), 2)
    from carrara.bench.run import bench
    from carrara.nn.device import limit_threads

    limit_threads(1)
    with suppress(Exception):
        bench(specs, tasks, data_dir=data_dir, results=results)


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
