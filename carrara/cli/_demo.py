"""The demo: render, pre-train, measure and report in one run, each step of which resumes.

Four systems are measured under the constrained protocol: the pre-trained MERT, the same network with random weights,
hand-crafted chroma and MFCC statistics, and noise that does not depend on the audio.
"""

from __future__ import annotations

import time
from pathlib import Path

import typer

from carrara.cli._echo import echo
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
SAMPLE_RATE = 24_000


def run_demo(output: Path, data_dir: Path | None, steps: int | None) -> None:
    """Run every step that is not done yet, print the leaderboard and write `output/report.html`.

    Raises:
        CarraraError: a step failed; the same command continues with it.
    """
    from carrara.audio.decode import load_audio
    from carrara.bench.leaderboard.ranking import build_leaderboard
    from carrara.bench.leaderboard.tables import print_leaderboard
    from carrara.bench.report.page import write_report
    from carrara.bench.run import bench
    from carrara.data import REGISTRY
    from carrara.encoders._hub.load import load
    from carrara.pretrain.metrics_log import LOG_FILE, read_metrics
    from carrara.pretrain.run import pretrain

    start = time.monotonic()
    _print_step(1, "rendering Pebble, the synthetic suite")
    pebble = REGISTRY.get("pebble")
    root = pebble.root(data_dir, SIZE)
    pebble.download(root, SIZE)

    _print_step(2, f"pre-training {RECIPE} at scale {SCALE} on its unlabelled part")
    corpus = [clip.path for clip in pebble.clips(root, "unlabelled")]
    model = pretrain(RECIPE, corpus, output / "mert", scale=SCALE, steps=steps, resume=True)

    results = output / "results"
    records: list[Record] = []
    for spec in (str(model), f"{model}:random", "chroma-mfcc", "noise"):
        encoder = load(spec)
        _print_step(3, f"measuring {encoder.card.name} on {len(TASKS)} tasks")
        records += bench(encoder, TASKS, data_dir=data_dir, results=results)

    _print_step(4, "writing the report")
    clip = next(clip for clip in pebble.clips(root, "songs") if clip.split == "test")
    example = {
        "samples": load_audio(clip.path, SAMPLE_RATE),
        "sample_rate": SAMPLE_RATE,
        "labels": clip.labels,
        "name": clip.id,
    }
    metrics = read_metrics(model / LOG_FILE)
    report = write_report(output / "report.html", records, metrics=metrics, example=example, title="Carrara demo")
    print_leaderboard(build_leaderboard(records))
    minutes = (time.monotonic() - start) / 60
    echo(
        f"""
{report} has the plots; this run took {minutes:.1f} minutes. Next:
  carrara compare mert chroma-mfcc --results {results}  # on which tasks do they differ?
  carrara embed ~/Music -e {model} -o music.parquet  # features of your own recordings
  carrara pretrain {RECIPE} --scale {SCALE} --corpus ~/Music -o my-mert  # a model of your own
  carrara bench my-mert --suite pebble -o {results}  # measure it
  carrara leaderboard {results}""",
        err=True,
    )


def _print_step(number: int, text: str) -> None:
    typer.secho(f"{number}/4 {text}", err=True, bold=True)
