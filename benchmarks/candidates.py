"""Compares candidates for the demo's recipe with what they change, on Pebble and on real sounds: docs/diary.md.

    carrara download pebble
    python benchmarks/real_audio.py REAL                     # the tasks of real sounds
    python benchmarks/candidates.py --real REAL -o candidates [--rows pairs,pairs-long] [--seeds 3]
    python benchmarks/candidates.py --real REAL -o demo --rows chroma-mfcc,demo --protocol constrained \
        --tasks pebble/key,pebble/pitch,pebble/genre,pebble/moods,pebble/emotion,pebble/instrument,pebble/technique

Two baselines at a fifth of the demo's budget: `pairs` is the demo's recipe (contrastive) with 64 steps of 32 crops,
`masked` is MERT's with three convolutions, 300 steps of 2 crops of 2.56 s. Every other row changes one thing; `demo` is
the demo's recipe as it is. Linear probes on all layers side by side, or another protocol; intervals and paired
differences over seeds and test clips, as of `carrara reproduce`. Rows named `real` train on spans of free game
soundtracks too, of Debian's packages PACKAGES, none of which is in REAL's tasks; they are downloaded by apt-get. The
same command continues a stopped run.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import soundfile
import soxr
from real_audio import unpack

from carrara.bench.run import bench
from carrara.data import REGISTRY as DATA
from carrara.pretrain.recipes._base import resolve
from carrara.reproduce._base import AblationRow, Hypothesis, Reproduction
from carrara.reproduce._run import FIRST_SEED, MeasuredModel, ReproductionPlan, train_row
from carrara.reproduce._verdict import RowResult, decide_hypotheses, summarise_rows

PACKAGES = ("hyperrogue-music", "singularity-music")
RATE, SPAN_SECONDS, SPANS = 24_000, 30, 80
PEBBLE = ("pebble/key", "pebble/genre", "pebble/emotion", "pebble/tags")
PROTOCOL = "linear:layers=concat:last4"

PAIRS: dict[str, Any] = {"steps": 64, "batch": 32, "pairs.group": 32, "checkpoint_every": 10_000, "log_every": 4}
MASKED: dict[str, Any] = {
    "network.conv_strides": (160, 2, 2), "network.conv_channels": 128, "network.conv_norm": "layer",
    "optimiser.learning_rate": 1e-3, "batch": 2, "crop_seconds": 2.56, "steps": 300, "checkpoint_every": 10_000,
}  # fmt: skip
TIME: dict[str, Any] = {
    "onsets": {"target": "clusters", "feature": "onsets", "k": 100},
    "tempogram": {"target": "clusters", "feature": "tempogram", "k": 60},
}
BASELINES: dict[str, tuple[str, dict[str, Any]]] = {
    "pairs": ("contrastive", PAIRS), "masked": ("mert-v0", MASKED), "demo": ("contrastive", {}),
}  # fmt: skip


def _row(label: str, changes: dict[str, Any], corpus: str = "", steps_factor: float = 1.0) -> AblationRow:
    recipe, own = BASELINES[label.split("-")[0]]
    return AblationRow(label, recipe, changes={**own, **changes}, corpus=corpus, steps_factor=steps_factor)


ROWS = (
    AblationRow("chroma-mfcc"),
    _row("pairs", {}),
    _row("pairs-real", {}, corpus="other"),
    _row("pairs-long", {}, steps_factor=2),
    _row("pairs-fast", {"optimiser.learning_rate": 3e-3}),
    _row("pairs-slow", {"optimiser.learning_rate": 3e-4}),
    _row("pairs-muon", {"optimiser.name": "muon"}),
    AblationRow("pairs-untrained", untrained_of="pairs"),
    _row("masked", {}),
    _row("masked-front-end", {"optimiser.front_end_factor": 0.1}),
    _row("masked-fixed-front-end", {"optimiser.front_end_factor": 0.0}),
    _row("masked-time", {"targets": resolve("mert-v0", "tiny").model_dump()["targets"] | TIME}),
    _row("masked-real", {}, corpus="other"),
    _row("masked-long", {}, steps_factor=2),
    AblationRow("masked-untrained", untrained_of="masked"),
    _row("demo", {}),
    AblationRow("demo-untrained", untrained_of="demo"),
)


def _hypotheses() -> tuple[Hypothesis, ...]:
    texts = []
    for row in ROWS:
        for baseline in (*BASELINES, "chroma-mfcc"):
            is_same_family = row.label.split("-")[0] == baseline
            if row.label != baseline and (is_same_family or baseline == "chroma-mfcc"):
                texts.append(Hypothesis(f"{row.label} − {baseline}", row.label, baseline))
    return tuple(texts)


def main() -> None:
    """Train and measure the rows, and print a table of each collection of tasks with the differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, required=True, help="what benchmarks/real_audio.py built")
    parser.add_argument("--rows", default=",".join(row.label for row in ROWS))
    parser.add_argument("--tasks", default=",".join(PEBBLE), help="Pebble's; of REAL it measures all")
    parser.add_argument("--protocol", default=PROTOCOL)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, help="of every training, instead of the rows' own: a first look")
    parser.add_argument("--limit", type=int, help="clips of each split, instead of all: a first look")
    parser.add_argument("-o", "--output", type=Path, default=Path("candidates"))
    options = parser.parse_args()
    labels = tuple(options.rows.split(","))
    if unknown := set(labels) - {row.label for row in ROWS}:
        parser.error(f"--rows: no {', '.join(sorted(unknown))}; there are {', '.join(row.label for row in ROWS)}")
    pebble = DATA.get("pebble")
    root = pebble.root(None)
    corpus = tuple(clip.path for clip in pebble.clips(root, "unlabelled"))
    plan = ReproductionPlan(
        corpus, options.output, seeds=options.seeds, steps=options.steps, labels=labels, protocol=options.protocol,
        models={"chroma-mfcc": ("chroma-mfcc",) * options.seeds},
    )  # fmt: skip
    if any(row.corpus for row in plan.rows(_study(PEBBLE))):
        plan = replace(plan, corpora={"other": build_corpus(options.output / "corpus", corpus)})
    of_pebble = tuple(options.tasks.split(","))
    tasks = [*of_pebble, *sorted(options.real.glob("*.toml"))]
    models: list[MeasuredModel] = []
    for seed in range(FIRST_SEED, FIRST_SEED + options.seeds):
        for row in plan.rows(_study(PEBBLE)):
            start = time.process_time()
            model = train_row(_study(PEBBLE), row, plan, seed)
            trained = time.process_time()
            # The hand-crafted features are one layer; there is nothing to put beside it.
            is_single = row.label in plan.models and plan.protocol == PROTOCOL
            own = replace(plan, protocol="linear") if is_single else plan
            config = own.bench_config(_study(PEBBLE), seed)
            results = bench(
                model, tasks, results=options.output / "results", config=config, device="cpu", limit=options.limit
            )
            seconds = f"{trained - start:.0f} + {time.process_time() - trained:.0f} s of CPU"
            print(f"{row.label} {seed}: {seconds}", flush=True)
            models.append(MeasuredModel(row.label, seed, {record.task.name: record for record in results}, 0.0))
    real = [name for name in models[0].records if name not in of_pebble]
    for title, names in (("Pebble", of_pebble), ("real", real)):
        study = _study(names)
        results_by_row = summarise_rows(study, models, options.output / "results")
        print_table(title, study, results_by_row)


def _study(tasks: Sequence[str]) -> Reproduction:
    return Reproduction("", "", "", ROWS, _hypotheses(), tasks=tuple(tasks))


def build_corpus(folder: Path, own: Sequence[Path]) -> Path:
    """Return a folder with links to Pebble's files and as many spans of 30 s of soundtracks from PACKAGES."""
    if not (folder / "done.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        tracks = [track for package in PACKAGES for track in _tracks(unpack(package, folder.parent / "packages"))]
        spans = [(track, start) for track in tracks for start in range(10, int(_seconds(track)) - SPAN_SECONDS, 60)]
        chosen = spans[:: max(len(spans) // SPANS, 1)][:SPANS]
        for number, (track, start) in enumerate(chosen):
            with soundfile.SoundFile(track) as file:
                file.seek(start * file.samplerate)
                samples = file.read(SPAN_SECONDS * file.samplerate, dtype="float32", always_2d=True).mean(1)
                soundfile.write(folder / f"{number:03d}.flac", soxr.resample(samples, file.samplerate, RATE), RATE)
        for path in own:
            (folder / f"pebble-{path.name}").symlink_to(path.resolve())
        (folder / "done.json").write_text(json.dumps([[track.name, start] for track, start in chosen]))
    return folder


def _tracks(package: Path) -> list[Path]:
    return [path for path in sorted(package.rglob("*.ogg")) if _seconds(path) > 2 * SPAN_SECONDS]


def _seconds(path: Path) -> float:
    return float(soundfile.info(path).duration)


def print_table(title: str, study: Reproduction, results: dict[str, RowResult]) -> None:
    """Print a row's mean, its tasks, and its differences from the baselines, as Markdown."""
    differences = {(each.hypothesis.better, each.hypothesis.worse): each for each in decide_hypotheses(study, results)}
    print(f"\n| row | mean on {title} | {' | '.join(study.tasks)} | − baseline | − chroma-mfcc |")
    print("|---|" + "--:|" * (len(study.tasks) + 3))
    for label, row in results.items():
        cells = [f"{row.average.value:.1f} [{row.average.low:.1f}, {row.average.high:.1f}]"]
        cells += [f"{row.tasks[task]:.1f}" for task in study.tasks]
        for baseline in (label.split("-")[0], "chroma-mfcc"):
            verdict = differences.get((label, baseline))
            gap = verdict.difference if verdict else None
            cells.append(f"{gap.value:+.1f} [{gap.low:+.1f}, {gap.high:+.1f}]" if gap else "–")
        print(f"| {label} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
