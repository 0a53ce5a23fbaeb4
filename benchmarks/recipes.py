"""Recipes trained at tiny scale on recordings: log, picture of the log, and a table.

    python benchmarks/recipes.py ~/Music -o recipes --steps 300
    python benchmarks/recipes.py ~/Music -o recipes --only music2vec --only rvq-vae
    python benchmarks/recipes.py ~/tagged -o recipes --only maest-5s  # a folder with labels.csv, for recipes of tags

Writes the log of each recipe, NAME.jsonl, its curves, NAME.png, and table.md with one line for each target: its metrics
in the first and the last line of the log. The baseline of classes is the entropy of the labels, which is the loss of
predicting class frequencies; the baseline of values is the error of the best constant. Recipes with a log are not
trained again; logs without a picture get one.
"""

from __future__ import annotations

import argparse
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from carrara.pretrain.log_plot import plot_log
from carrara.pretrain.metrics_log import LOG_FILE, read_metrics
from carrara.pretrain.recipes import REGISTRY
from carrara.pretrain.recipes._base import resolve
from carrara.pretrain.run import pretrain

FIRST_ITERATION = {"musichubert-iter2": "musichubert-k2000", "mert-v0-iter2": "mert-v0-no-cqt"}
NEEDS_TAGS = ("maest", "effnet-tagger")


def train_recipe(name: str, corpus: list[str], output: Path, steps: int, folders: Path) -> None:
    """Train one recipe or resume it, and copy its log to the output folder."""
    log = output / f"{name}.jsonl"
    if log.exists():
        return
    changes: dict[str, Any] = {"steps": steps}
    if name in FIRST_ITERATION:
        changes["targets.layer.encoder"] = str(folders / FIRST_ITERATION[name])
    folder = pretrain(resolve(name, "tiny", changes), corpus, folders / name, resume=True, device="cpu")
    shutil.copy(folder / LOG_FILE, log)


def draw_missing_pictures(output: Path) -> None:
    """Draw the curves of each log that has no picture yet."""
    for log in sorted(output.glob("*.jsonl")):
        if log.with_suffix(".png").exists():
            continue
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(log, Path(folder) / LOG_FILE)
            picture = plot_log(folder)
            if picture:  # with few colours, a fifth of the size
                Image.open(picture).convert("P", palette=Image.Palette.ADAPTIVE, colors=32).save(
                    log.with_suffix(".png"), optimize=True
                )


def table(output: Path) -> str:
    """Return a Markdown table of the first and the last line of each log."""
    rows = [
        "| recipe | metric | first | last | baseline | steps | minutes |",
        "| :-- | :-- | --: | --: | --: | --: | --: |",
    ]
    for path in sorted(output.glob("*.jsonl")):
        lines = read_metrics(path)
        first, last = lines[0], lines[-1]
        for index, (metric, before, after, baseline) in enumerate(_summarize(first, last)):
            cost = f"{last['step']} | {last['seconds'] / 60:.1f}" if index == 0 else " | "
            rows.append(f"| {'' if index else path.stem} | {metric} | {before} | {after} | {baseline} | {cost} |")
    return "\n".join(rows) + "\n"


def _summarize(first: dict[str, Any], last: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return metric, first and last value, and baseline of each target."""
    rows = []
    for key in last:
        kind, _, name = key.partition("/")
        if kind == "accuracy" and name:
            before, after = (f"{line['loss/' + name]:.2f} ({line[key]:.1%})" for line in (first, last))
            baseline = f"{math.log(last[f'perplexity_target/{name}']):.2f}"
            rows.append((f"{name}: nats per masked frame (accuracy)", before, after, baseline))
        elif kind == "relative_mse":
            rows.append((f"{name}: relative MSE", f"{first[key]:.2f}", f"{last[key]:.2f}", "1.00"))
    return rows or [("loss", f"{first['loss']:.3f}", f"{last['loss']:.3f}", "")]


def main() -> None:
    """Train the chosen recipes and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", nargs="+")
    parser.add_argument("-o", "--output", type=Path, default=Path("recipes"))
    parser.add_argument("--folders", type=Path, help="folder of the encoders; default: OUTPUT/folders")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--only", action="append")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    folders = arguments.folders or arguments.output / "folders"
    names = arguments.only or [name for name in REGISTRY.names() if not name.startswith(NEEDS_TAGS)]
    for name in sorted(names, key=lambda name: name in FIRST_ITERATION):
        train_recipe(name, arguments.corpus, arguments.output, arguments.steps, folders)
        draw_missing_pictures(arguments.output)
        (arguments.output / "table.md").write_text(table(arguments.output), encoding="utf-8")


if __name__ == "__main__":
    main()
