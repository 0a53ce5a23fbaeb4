"""CPU seconds of a training step per second of audio: raw convolutions against mel spectrograms, one after the other.

    OMP_NUM_THREADS=1 python benchmarks/students.py mert-v0 mel-conformer-random "mert-v0 network.conv_bias=true"

Each recipe's own objective, forward and backward on noise with labels drawn at random, as in `pretrain --dry-run`. The
recipes take turns, and CPU time of the one process is measured, so that other jobs of the machine disturb little.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from carrara.core.settings import parse_assignments, replace
from carrara.pretrain.corpus.stream import CropBatch
from carrara.pretrain.dry_objectives import dry_objective
from carrara.pretrain.objectives._base import Objective
from carrara.pretrain.recipes._base import resolve

SECONDS = 40.0  # of audio, about, in a step of each


def build_objective(spec: str, scale: str) -> tuple[Objective, int]:
    """Return the objective of a recipe, in training mode, and its crops in a step; settings may follow the name."""
    name, *settings = spec.split()
    recipe = resolve(name, scale, parse_assignments(settings))
    single = replace(recipe, {"accumulation_steps": 1, "precision": "float32"})
    objective = dry_objective(single, torch.device("cpu"), ())
    objective.module.train()
    return objective, max(round(SECONDS / recipe.crop_seconds), 1)


def step_seconds(objective: Objective, crops: int) -> float:
    """Return the CPU seconds of one forward and backward pass per second of audio."""
    samples_BT = 0.1 * torch.randn(crops, objective.stream.crop_samples)
    batch = CropBatch(0, samples_BT, (0,) * crops, (0,) * crops, ())
    started = time.process_time()
    (micro_batch,) = objective.micro_batches(batch)
    objective.losses(objective.module, micro_batch, 0).loss(micro_batch.divisors).backward()
    encoder = objective.encoder
    assert encoder is not None
    return (time.process_time() - started) / (samples_BT.numel() / encoder.card.sample_rate)


def main() -> None:
    """Measure the recipes and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--scale", default="tiny")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    students = {name: build_objective(name, arguments.scale) for name in arguments.recipes}
    seconds: dict[str, list[float]] = {name: [] for name in students}
    for round_number in range(arguments.rounds + 1):
        for name, (objective, crops) in students.items():
            measured = step_seconds(objective, crops)
            if round_number:  # the first is a warm-up
                seconds[name].append(measured)
    print("| recipe | parameters | CPU ms per second of audio | relative |\n| :-- | --: | --: | --: |")
    first = statistics.median(seconds[arguments.recipes[0]])
    for name, values in seconds.items():
        median = statistics.median(values)
        encoder = students[name][0].encoder
        assert encoder is not None
        print(f"| `{name}` | {encoder.card.parameters:,} | {1000 * median:.1f} | {median / first:.2f} |")


if __name__ == "__main__":
    main()
