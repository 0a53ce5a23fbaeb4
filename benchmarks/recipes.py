"""Every recipe of masked prediction and the codec, trained at tiny scale on recordings: does each learn?

    python benchmarks/recipes.py ~/Music -o recipes --steps 300
    python benchmarks/recipes.py ~/Music -o recipes --only music2vec --only rvq-vae

Writes NAME.jsonl (the journal) for each recipe and README.md with one line for each thing that a recipe is taught:
what the first and the last line of the journal say of it. Classes are judged by their loss beside the entropy of the
labels themselves, which is what knowing their frequencies alone would give; values by the share of their variance that
is left. What stands already is kept, so a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
from pathlib import Path
from typing import Any

from carrara.pretrain.metrics_log import NAME, read
from carrara.pretrain.recipes import REGISTRY
from carrara.pretrain.recipes._base import resolve
from carrara.pretrain.run import pretrain

FIRST_ITERATION = {"musichubert-iter2": ("musichubert-k2000", "targets.layer.encoder")}
OTHERS = ("maest", "effnet-tagger")


def learn(name: str, corpus: list[str], output: Path, steps: int, folders: Path) -> None:
    """Train one recipe, or go on with it, and keep its journal."""
    kept = output / f"{name}.jsonl"
    if kept.exists():
        return
    changes: dict[str, Any] = {}
    if name in FIRST_ITERATION:
        before, path = FIRST_ITERATION[name]
        changes[path] = str(folders / before)
    folder = pretrain(
        resolve(name, "tiny", changes | {"steps": steps}), corpus, folders / name, resume=True, device="cpu"
    )
    shutil.copy(folder / NAME, kept)


def table(output: Path) -> str:
    """Return a Markdown table of what each journal says at its beginning and at its end."""
    rows = [
        "| recipe | of | first | last | knowing nothing | steps | minutes |",
        "| :-- | :-- | --: | --: | --: | --: | --: |",
    ]
    for path in sorted(output.glob("*.jsonl")):
        lines = read(path)
        first, last = lines[0], lines[-1]
        for row, (what, before, after, floor) in enumerate(_taught(first, last)):
            name, cost = (path.stem, f"{last['step']} | {last['seconds'] / 60:.1f}") if row == 0 else ("", " | ")
            rows.append(f"| {name} | {what} | {before} | {after} | {floor} | {cost} |")
    return "\n".join(rows) + "\n"


def _taught(first: dict[str, Any], last: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    found = []
    for key in last:
        kind, _, name = key.partition("/")
        if kind == "accuracy":
            said = [f"{line['loss/' + name]:.2f} ({line[key]:.1%})" for line in (first, last)]
            entropy = math.log(last[f"perplexity_target/{name}"])
            found.append((f"{name}: nats a masked frame (named rightly)", *said, f"{entropy:.2f}"))
        elif kind == "relative":
            found.append((f"{name}: share of variance left", f"{first[key]:.2f}", f"{last[key]:.2f}", "1.00"))
    return found or [("loss", f"{first['loss']:.3f}", f"{last['loss']:.3f}", "")]


def main() -> None:
    """Train what is asked for and write the table."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("corpus", nargs="+")
    ask.add_argument("-o", "--output", type=Path, default=Path("recipes"))
    ask.add_argument("--folders", type=Path, help="where the encoders go; default: OUTPUT/folders")
    ask.add_argument("--steps", type=int, default=300)
    ask.add_argument("--only", action="append")
    asked = ask.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    folders = asked.folders or asked.output / "folders"
    names = asked.only or [name for name in REGISTRY.names() if not name.startswith(OTHERS)]
    for name in sorted(names, key=lambda name: name in FIRST_ITERATION):
        learn(name, asked.corpus, asked.output, asked.steps, folders)
        command = f"python benchmarks/recipes.py … --steps {asked.steps}"
        head = f"# Every recipe at tiny scale\n\n`{command}`, {os.cpu_count()} cores.\n\n"
        (asked.output / "README.md").write_text(head + table(asked.output), encoding="utf-8")


if __name__ == "__main__":
    main()
