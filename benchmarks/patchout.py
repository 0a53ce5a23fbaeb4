"""What patchout buys: minutes of audio a second and memory against the share of columns left out.

    python benchmarks/patchout.py                            a small network, 10 s, on one core
    python benchmarks/patchout.py --base --batch 48 --precision bfloat16 --device cuda

The peer of each line is the first one: the same network and the same step with every column. A training step is
forward, backward and AdamW; encoding is the encoder from samples to the features of all layers. Columns are left out at
random in training and evenly when encoding, as the encoder's setting `drop_columns` does. What that costs in
score: patchout_scores.py. Each line is measured in a
process of its own, so that its peak of memory is its own: of the process beyond what it had before on a CPU, of torch's
allocator on a GPU. On a CPU one thread is measured in its own seconds, so that other work changes little.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from carrara.encoders._hub.load import build_encoder
from carrara.encoders._maest.network import HOP, SAMPLE_RATE, MaestEncoder
from carrara.nn.device import pick_device
from carrara.pretrain.precision import autocast
from carrara.pretrain.tagging.network import draw_patchout, input_mel, tag_logits

SHARES = (0.0, 0.25, 0.5, 0.75)
SMALL = {"dim": 192, "num_layers": 4, "num_heads": 3, "ffn_dim": 768}
CLASSES = 400


def dropped(columns: int, share: float) -> tuple[int, ...]:
    """Return so many columns, spread evenly."""
    kept = np.linspace(0, columns - 1, max(round(columns * (1 - share)), 1)).round().astype(int)
    return tuple(sorted(set(range(columns)) - set(kept.tolist())))


def resident(device: str) -> float:
    """Return the peak of memory so far, in megabytes."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def measured(options: argparse.Namespace, training: bool, share: float) -> tuple[float, float]:
    """Return the seconds that a batch takes (median of several), and the megabytes that it needs at most."""
    torch.set_num_threads(1)
    frames, device = round(options.seconds * SAMPLE_RATE) // HOP, options.device
    own: dict[str, Any] = {} if options.base else SMALL
    encoder = build_encoder("maest-30s", 0, {"frames": frames, **own}).to(device)
    assert isinstance(encoder, MaestEncoder)
    columns = encoder.vit.shape.num_columns(frames)
    samples_BT = 0.1 * torch.randn(options.batch, frames * HOP, device=device)
    out = dropped(columns, share)
    encoder.settings = encoder.settings.model_copy(update={"drop_columns": out})
    optimiser = torch.optim.AdamW(encoder.parameters(), lr=2e-5, fused=True)
    tags_BC = (torch.rand(options.batch, CLASSES, device=device) < 0.01).float()

    def step() -> None:
        with autocast(options.precision, torch.device(device)):
            mel_BFM = input_mel(encoder, samples_BT)
            columns = draw_patchout(encoder, mel_BFM.shape[1], len(out), np.random.default_rng(0))
            logits_BC, _ = tag_logits(encoder, mel_BFM, *columns)
        torch.nn.functional.binary_cross_entropy_with_logits(logits_BC.float(), tags_BC).backward()
        optimiser.step()
        optimiser.zero_grad()

    def hear() -> None:
        with torch.inference_mode(), autocast(options.precision, torch.device(device)):
            encoder(samples_BT)

    encoder.train(training)
    clock = time.process_time if device == "cpu" else time.perf_counter
    before, took = resident(device) if device == "cpu" else 0.0, []
    for _ in range(options.times + 1):
        began = clock()
        (step if training else hear)()
        if device != "cpu":
            torch.cuda.synchronize()
        took.append(clock() - began)
    return statistics.median(took[1:]), resident(device) - before


def alone(options: argparse.Namespace, training: bool, share: float) -> tuple[float, float]:
    """Return what `measured` gives, from a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measured, (options, training, share))


def main() -> None:
    """Measure every share in training and in encoding, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a crop (default 10)")
    parser.add_argument("--batch", type=int, default=8, help="crops at once (default 8)")
    parser.add_argument("--times", type=int, default=5, help="measured batches of each line (default 5)")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="columns left out (default 0 to .75)")
    parser.add_argument("--base", action="store_true", help="the published size, 86M; else 4 layers of 192")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("-o", "--output", type=Path, help="JSON file of the numbers")
    options = parser.parse_args()
    options.device = pick_device(options.device)
    size = "the published size" if options.base else "4 layers of 192"
    print(f"{options.batch} crops of {options.seconds:g} s, {size}, {options.precision} on {options.device}")
    print(f"{'':9}{'left out':>9} {'min/s':>9} {'times':>6} {'MB':>8} {'times':>6}")
    lines = []
    for training in (True, False):
        first: tuple[float, float] | None = None
        for share in options.shares:
            took, megabytes = alone(options, training, share)
            first = first or (took, megabytes)
            rate = options.batch * options.seconds / 60 / took
            print(
                f"{'training' if training else 'encoding':9}{share:9.0%} {rate:9.3f} {first[0] / took:6.2f} "
                f"{megabytes:8.0f} {megabytes / max(first[1], 1e-9):6.2f}",
                flush=True,
            )
            lines.append({"training": training, "left_out": share, "minutes_a_second": round(rate, 3)})
            lines[-1] |= {"gain": round(first[0] / took, 2), "mb": round(megabytes)}
    if options.output:
        from steps import describe_run

        head = {"seconds": options.seconds, "batch": options.batch, "times": options.times, "clock": "CPU seconds"}
        result = head | describe_run(torch.device(options.device)) | {"lines": lines}
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
