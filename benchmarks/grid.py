"""The probe grid against the plain way, and both against the machine: seconds an epoch of all 84 probes of a 95M model.

    python benchmarks/grid.py                       5,000 clips, 13 layers of 768, 50 classes, 84 probes, 3 epochs
    python benchmarks/grid.py --probes 12 --plain-probes 4
    python benchmarks/grid.py --device cuda

The plain way is MARBLE's without its waiting: one probe after another, autograd, torch.optim.Adam, batches indexed from
memory (no DataLoader), the same validation pass. It is timed on a few probes and scaled, with one thread and with all,
and the faster counts. The floor adds up what no program avoids: the arithmetic of the products at the matrix rate that
this machine shows in one large product, and the traffic of Adam (four reads and three writes a parameter) at the
bandwidth of a large copy. State that stays in cache may beat the second part.
"""

from __future__ import annotations

import argparse
import os
import time

import numpy as np
import torch
from torch.nn import functional as F

from carrara.bench.probes.examples import Examples
from carrara.bench.probes.grid import GridSettings, ProbeProblem, train_grid
from carrara.bench.probes.probe import Probe, ProbeShape, ProbeSpec, initial_probe
from carrara.bench.protocols.constrained import grid_points
from carrara.bench.task_types.multiclass import TASK_TYPE

CLIPS, WATCHED, LAYERS, WIDTH, CLASSES, BATCH = 5000, 1000, 13, 768, 50, 64


def made() -> ProbeProblem:
    """Return noise in the place of features, and classes in the place of labels."""
    draw = np.random.default_rng(0)

    def side(rows: int) -> Examples:
        layers = {
            str(i): draw.standard_normal((rows, WIDTH), dtype=np.float32).astype(np.float16) for i in range(LAYERS)
        }
        return Examples.of_rows(layers, draw.integers(0, CLASSES, rows))

    train, valid = side(CLIPS), side(WATCHED)
    truth = torch.from_numpy(valid.targets_R)
    return ProbeProblem(
        train, valid, TASK_TYPE.loss, lambda logits_PRK: (logits_PRK.argmax(-1) == truth).float().mean(1).tolist()
    )


def stacked(question: ProbeProblem, specs: list[ProbeSpec], epochs: int, device: str) -> float:
    """Return seconds an epoch of the grid; the first, which pays for the start, is left out."""
    settings = {"outputs": CLASSES, "device": device, "stop_patience": 1000}
    return (_grid(question, specs, epochs + 1, settings) - _grid(question, specs, 1, settings)) / epochs


def _grid(question: ProbeProblem, specs: list[ProbeSpec], epochs: int, settings: dict) -> float:
    began = time.perf_counter()
    train_grid(question, specs, GridSettings(max_epochs=epochs, **settings))
    return time.perf_counter() - began


def scaled(question: ProbeProblem, specs: list[ProbeSpec], sample: list[ProbeSpec], device: str, threads: int) -> float:
    """Return seconds an epoch of all probes the plain way, from those of a sample of each kind: sums cost more."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    total = 0.0
    for several in (False, True):
        kind, timed = ([spec for spec in group if (len(spec.sources) > 1) == several] for group in (specs, sample))
        if kind:
            timed = timed or kind[:1]
            total += plain(question, timed, device) * len(kind) / len(timed)
    torch.set_num_threads(before)
    return total


def plain(question: ProbeProblem, specs: list[ProbeSpec], device: str) -> float:
    """Return seconds an epoch of these probes, trained one after another."""
    total = 0.0
    for spec in specs:
        mixed = len(spec.sources) if len(spec.sources) > 1 else 0
        probe = initial_probe(spec, ProbeShape(WIDTH, 512, CLASSES, 0.2, mixed)).to(device)
        adam = torch.optim.Adam(probe.parameters(), lr=spec.learning_rate)
        heard, watched = (_features(examples, spec, device) for examples in (question.train, question.valid))
        target = torch.from_numpy(question.train.targets_R).to(device)
        plain_epoch(probe, adam, heard[..., : 4 * BATCH, :], target[: 4 * BATCH], watched)
        _wait(device)
        began = time.perf_counter()
        plain_epoch(probe, adam, heard, target, watched)
        _wait(device)
        total += time.perf_counter() - began
    return total


def plain_epoch(
    probe: Probe, adam: torch.optim.Optimizer, heard: torch.Tensor, target: torch.Tensor, watched: torch.Tensor
) -> None:
    """Train for an epoch and answer the validation clips."""
    order = torch.randperm(len(target), device=heard.device)
    for low in range(0, len(order), BATCH):
        rows = order[low : low + BATCH]
        mask = torch.rand(len(rows), 512, device=heard.device) >= 0.2
        error = F.cross_entropy(probe(heard[..., rows, :], mask), target[rows])
        adam.zero_grad()
        error.backward()
        adam.step()
    with torch.no_grad():
        probe(watched).argmax(-1).cpu()


def floor(specs: list[ProbeSpec], device: str) -> tuple[float, float, str]:
    """Return the floor's seconds of arithmetic and of traffic, and the rates measured."""
    rate, bandwidth = matrix_rate(device), copy_bandwidth(device)
    weights = WIDTH * 512 + 512 * CLASSES
    steps = -(-CLIPS // BATCH)
    flops = traffic = 0.0
    for spec in specs:
        # Forward and the weights' gradients, then the hidden units' slopes; a sum needs its input's slopes too.
        flops += CLIPS * (2 * weights * 2 + 2 * 512 * CLASSES) + WATCHED * 2 * weights
        traffic += steps * 7 * 4 * (weights + 512 + CLASSES)
        if len(spec.sources) > 1:
            flops += CLIPS * (2 * WIDTH * 512 + 4 * LAYERS * WIDTH) + WATCHED * 2 * LAYERS * WIDTH
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
    found = []
    for _ in range(times):
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        found.append(time.perf_counter() - began)
    return min(found)


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
    options.add_argument("--plain-probes", type=int, default=14, help="probes of the plain way that are timed")
    options.add_argument("--epochs", type=int, default=3, help="epochs of the grid that are timed")
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    asked = options.parse_args()
    question = made()
    every = grid_points(tuple(question.train.layers), (1234,))
    specs = [every[place] for place in np.linspace(0, len(every) - 1, asked.probes).round().astype(int)]
    sample = [specs[place] for place in np.linspace(0, len(specs) - 1, asked.plain_probes).round().astype(int)]
    with torch.no_grad():
        arithmetic, traffic, rates = floor(specs, asked.device)
    ours = stacked(question, specs, asked.epochs, asked.device)
    theirs, threads = min(
        (scaled(question, specs, sample, asked.device, threads), threads) for threads in {1, torch.get_num_threads()}
    )
    load = os.getloadavg()[0]
    print(f"{len(specs)} probes on {asked.device}, {torch.get_num_threads()} threads, load {load:.1f}; {rates}")
    print(f"grid   {ours:8.2f} s an epoch")
    print(f"plain  {theirs:8.2f} s an epoch   {theirs / ours:.2f} times the grid's   (threads: {threads}, the faster)")
    least = arithmetic + traffic
    print(f"floor  {least:8.2f} s an epoch   ({arithmetic:.2f} arithmetic + {traffic:.2f} Adam's traffic)")
    print(f"grid / floor = {ours / least:.2f}")


if __name__ == "__main__":
    main()
