"""The probe grid against a plain loop, and both against the machine: seconds an epoch of all 84 probes of a 95M model.

    python benchmarks/grid.py                       5,000 clips, 13 layers of 768, 50 classes, 84 probes, 3 epochs
    python benchmarks/grid.py --probes 12 --plain-probes 4
    python benchmarks/grid.py --device cuda

The plain loop is MARBLE's without a DataLoader: one probe after another, autograd, torch.optim.Adam, batches indexed
from memory, the same validation pass. It is timed on a few probes and scaled, with one thread and with all, and the
faster counts. The lower bound adds up what no program avoids: the arithmetic of the products at the rate of one large
matrix product, and the memory traffic of Adam (four reads and three writes a parameter) at the bandwidth of a large
copy. State that stays in cache may beat the second part.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from steps import describe_run
from torch.nn import functional as F

from carrara.bench.probes.examples import Examples
from carrara.bench.probes.grid import GridSettings, ProbeProblem, train_grid
from carrara.bench.probes.probe import Probe, ProbeShape, ProbeSpec, initial_probe
from carrara.bench.protocols.constrained import grid_points
from carrara.bench.task_types.multiclass import TASK_TYPE

CLIPS, VALID_CLIPS, LAYERS, DIM, CLASSES, BATCH = 5000, 1000, 13, 768, 50, 64


def make_problem() -> ProbeProblem:
    """Return noise as features, and random classes as labels."""
    rng = np.random.default_rng(0)

    def examples(rows: int) -> Examples:
        layers = {str(i): rng.standard_normal((rows, DIM), dtype=np.float32).astype(np.float16) for i in range(LAYERS)}
        return Examples.from_rows(layers, rng.integers(0, CLASSES, rows))

    train, valid = examples(CLIPS), examples(VALID_CLIPS)
    truth = torch.from_numpy(valid.targets_R)
    return ProbeProblem(
        train, valid, TASK_TYPE.loss, lambda logits_PRK: (logits_PRK.argmax(-1) == truth).float().mean(1).tolist()
    )


def grid_seconds(problem: ProbeProblem, specs: list[ProbeSpec], epochs: int, device: str) -> float:
    """Return seconds an epoch of the grid; the first, which pays for the start, is left out."""
    settings = {"outputs": CLASSES, "device": device, "stop_patience": 1000}
    return (_grid(problem, specs, epochs + 1, settings) - _grid(problem, specs, 1, settings)) / epochs


def _grid(problem: ProbeProblem, specs: list[ProbeSpec], epochs: int, settings: dict) -> float:
    started = time.perf_counter()
    train_grid(problem, specs, GridSettings(max_epochs=epochs, **settings))
    return time.perf_counter() - started


def plain_seconds(
    problem: ProbeProblem, specs: list[ProbeSpec], sample: list[ProbeSpec], device: str, threads: int
) -> float:
    """Return seconds an epoch of all probes in the plain loop, scaled from a sample of each kind."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    total = 0.0
    for several in (False, True):
        kind, timed = ([spec for spec in group if (len(spec.sources) > 1) == several] for group in (specs, sample))
        if kind:
            timed = timed or kind[:1]
            total += time_plain(problem, timed, device) * len(kind) / len(timed)
    torch.set_num_threads(before)
    return total


def time_plain(problem: ProbeProblem, specs: list[ProbeSpec], device: str) -> float:
    """Return seconds an epoch of these probes, trained one after another."""
    total = 0.0
    for spec in specs:
        num_summed = len(spec.sources) if len(spec.sources) > 1 else 0
        probe = initial_probe(spec, ProbeShape(DIM, 512, CLASSES, 0.2, num_summed)).to(device)
        adam = torch.optim.Adam(probe.parameters(), lr=spec.learning_rate)
        train_x, valid_x = (_features(examples, spec, device) for examples in (problem.train, problem.valid))
        target = torch.from_numpy(problem.train.targets_R).to(device)
        plain_epoch(probe, adam, train_x[..., : 4 * BATCH, :], target[: 4 * BATCH], valid_x)
        _wait(device)
        started = time.perf_counter()
        plain_epoch(probe, adam, train_x, target, valid_x)
        _wait(device)
        total += time.perf_counter() - started
    return total


def plain_epoch(
    probe: Probe, adam: torch.optim.Optimizer, train_x: torch.Tensor, target: torch.Tensor, valid_x: torch.Tensor
) -> None:
    """Train for an epoch and predict the validation clips."""
    order = torch.randperm(len(target), device=train_x.device)
    for low in range(0, len(order), BATCH):
        rows = order[low : low + BATCH]
        mask = torch.rand(len(rows), 512, device=train_x.device) >= 0.2
        error = F.cross_entropy(probe(train_x[..., rows, :], mask), target[rows])
        adam.zero_grad()
        error.backward()
        adam.step()
    with torch.no_grad():
        probe(valid_x).argmax(-1).cpu()


def lower_bound(specs: list[ProbeSpec], device: str) -> tuple[float, float, str]:
    """Return the lower bound's seconds of arithmetic and of traffic, and the rates measured."""
    rate, bandwidth = matrix_rate(device), copy_bandwidth(device)
    weights = DIM * 512 + 512 * CLASSES
    steps = -(-CLIPS // BATCH)
    flops = traffic = 0.0
    for spec in specs:
        # Forward, gradients of weights and of hidden units; a sum needs the gradients of its input too.
        flops += CLIPS * (2 * weights * 2 + 2 * 512 * CLASSES) + VALID_CLIPS * 2 * weights
        traffic += steps * 7 * 4 * (weights + 512 + CLASSES)
        if len(spec.sources) > 1:
            flops += CLIPS * (2 * DIM * 512 + 4 * LAYERS * DIM) + VALID_CLIPS * 2 * LAYERS * DIM
    return flops / rate, traffic / bandwidth, f"{rate / 1e9:.0f} GFLOP/s, {bandwidth / 1e9:.1f} GB/s"


def matrix_rate(device: str, size: int = 3072) -> float:
    """Return multiply-adds ×2 a second in a large float32 product."""
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    return 2 * size**3 / _best(lambda: torch.mm(a, b), device)


def copy_bandwidth(device: str, size: int = 2**26) -> float:
    """Return bytes read and written a second in a large copy."""
    a = torch.randn(size, device=device)
    b = torch.empty_like(a)
    return 8 * size / _best(lambda: b.copy_(a), device)


def _best(work, device: str, times: int = 7) -> float:
    seconds = []
    for _ in range(times):
        _wait(device)
        started = time.perf_counter()
        work()
        _wait(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _features(examples: Examples, spec: ProbeSpec, device: str) -> torch.Tensor:
    layers = examples.fetch(spec.sources, examples.rows_R, torch.device(device))
    return layers if len(spec.sources) > 1 else layers[0]


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--probes", type=int, default=84, help="probes of the grid")
    options.add_argument("--plain-probes", type=int, default=14, help="probes of the plain loop that are timed")
    options.add_argument("--epochs", type=int, default=3, help="epochs of the grid that are timed")
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("-o", "--output", type=Path, help="JSON file of the numbers")
    arguments = options.parse_args()
    problem = make_problem()
    points = grid_points(tuple(problem.train.layers), (1234,))
    specs = [points[index] for index in np.linspace(0, len(points) - 1, arguments.probes).round().astype(int)]
    sample = [specs[index] for index in np.linspace(0, len(specs) - 1, arguments.plain_probes).round().astype(int)]
    with torch.no_grad():
        arithmetic, traffic, rates = lower_bound(specs, arguments.device)
    ours = grid_seconds(problem, specs, arguments.epochs, arguments.device)
    theirs, threads = min(
        (plain_seconds(problem, specs, sample, arguments.device, threads), threads)
        for threads in {1, torch.get_num_threads()}
    )
    load = os.getloadavg()[0]
    print(f"{len(specs)} probes on {arguments.device}, {torch.get_num_threads()} threads, load {load:.1f}; {rates}")
    print(f"grid   {ours:8.2f} s an epoch")
    print(f"plain  {theirs:8.2f} s an epoch   {theirs / ours:.2f} times the grid's   (threads: {threads}, the faster)")
    bound = arithmetic + traffic
    print(f"bound  {bound:8.2f} s an epoch   ({arithmetic:.2f} arithmetic + {traffic:.2f} Adam's traffic)")
    print(f"grid / bound = {ours / bound:.2f}")
    if arguments.output:
        result = {"probes": len(specs), "grid_seconds": ours, "plain_seconds": theirs, "bound_seconds": bound}
        result |= {"plain_over_grid": theirs / ours, "grid_over_bound": ours / bound}
        rounded = {name: round(value, 3) for name, value in result.items()}
        arguments.output.write_text(json.dumps(rounded | describe_run(torch.device(arguments.device)), indent=1) + "\n")


if __name__ == "__main__":
    main()
