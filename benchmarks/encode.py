"""Encoding in float32 and int8 on a CPU, ours beside transformers' HubertModel (SDPA), in turn in one process.

    python benchmarks/encode.py -o docs/encode.json
    python benchmarks/encode.py --instructions avx2 --batch 8 --threads 2 --rounds 3 -o /tmp/encode.json

HuBERT's base shape with random weights, equal in both; crops of 5 s at 16 kHz. Every round calls all networks once. A
row has the median over the rounds of the CPU seconds of a crop and of the ratio to transformers in the same round, the
smallest and largest ratio, and the same of the wall clock, which other jobs distort more. `--instructions
avx2` starts the script again with oneDNN, MKL and ATen limited to AVX2. `--huge-pages` keeps large tensors of all
networks in huge pages, as Carrara's command line does; without it they are in small ones, as by default in Python. The
difference is the largest of all layers, relative to the largest value.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

LIMITS = {
    "native": {},
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
}
MARK = "CARRARA_BENCHMARK_INSTRUCTIONS"


def measure(networks: dict[str, Any], samples: Any, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each network, the last of which is the peer."""
    import torch

    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in networks}
    layers = {}
    with torch.inference_mode():
        for _ in range(rounds + 1):
            for name, call in networks.items():
                began = time.process_time(), time.perf_counter()
                layers[name] = call(samples)
                seconds[name].append((time.process_time() - began[0], time.perf_counter() - began[1]))
    peer = list(networks)[-1]
    rows = []
    for name in networks:
        row: dict[str, Any] = {"network": name, "batch": len(samples), "threads": torch.get_num_threads()}
        for index, clock in enumerate(("cpu", "wall")):
            own, other = ([pair[index] for pair in seconds[each][1:]] for each in (name, peer))
            ratios = [theirs / ours for ours, theirs in zip(own, other)]
            row[f"{clock}_seconds"] = round(statistics.median(own) / len(samples), 4)
            row[f"{clock}_ratio"] = round(statistics.median(ratios), 3)
            row[f"{clock}_ratios"] = [round(min(ratios), 3), round(max(ratios), 3)]
        row["difference"] = float((layers[name] - layers[peer]).abs().max() / layers[peer].abs().max())
        rows.append(row)
    return rows


def build(small: bool) -> dict[str, Any]:
    """Return the calls by name: crops `[B, T]` to the features of every layer, `[B, layers + 1, frames, dim]`."""
    import torch
    from steps import NetworkSize, hubert_encoder, hubert_peer

    from carrara.nn.conv.waveform_frontend import WaveformFrontend
    from carrara.nn.linear import OnednnLinear

    size = NetworkSize(16, 32, 2, 4) if small else NetworkSize()
    ours, peer = hubert_encoder(size).eval(), hubert_peer(size).eval()
    peer.load_state_dict(ours.state_dict())
    quantized = copy.deepcopy(ours)
    for module in quantized.modules():
        if isinstance(module, OnednnLinear | WaveformFrontend):
            module.quantize()
    return {
        "float32": ours,
        "int8": quantized,
        "transformers": lambda samples: torch.stack(peer(samples, output_hidden_states=True).hidden_states, 1),
    }


def main() -> None:
    """Measure every combination and write the JSON file after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, action="append", help="crops a call; default 1 and 8")
    parser.add_argument("--threads", type=int, action="append", help="default 1 and 2")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--instructions", choices=LIMITS, default="native", help="native (default) or avx2")
    parser.add_argument("--huge-pages", action="store_true", help="as the command line of Carrara does")
    parser.add_argument("--small", action="store_true", help="tiny networks and crops, to test the script")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.instructions != os.environ.get(MARK, "native"):
        environment = {**os.environ, MARK: arguments.instructions, **LIMITS[arguments.instructions]}
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    os.environ["THP_MEM_ALLOC_ENABLE"] = str(int(arguments.huge_pages))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads would count as CPU time
    import torch
    from steps import describe_run

    networks, generator = build(arguments.small), torch.Generator().manual_seed(0)
    kind: dict[str, Any] = {"instructions": arguments.instructions, "huge_pages": arguments.huge_pages}
    kind["thread_counts"] = arguments.threads or [1, 2]
    run = {**describe_run(torch.device("cpu")), **kind, "capability": torch.backends.cpu.get_cpu_capability()}
    runs: list[dict[str, Any]] = json.loads(arguments.output.read_text()) if arguments.output.exists() else []
    runs = [each for each in runs if not kind.items() <= each.items()]
    runs.append({**run, "rows": []})
    for threads in kind["thread_counts"]:
        torch.set_num_threads(threads)
        for batch in arguments.batch or (1, 8):
            samples = 0.1 * torch.randn(batch, 8000 if arguments.small else 80_000, generator=generator)
            runs[-1]["rows"] += measure(networks, samples, arguments.rounds)
            for row in runs[-1]["rows"][-len(networks) :]:
                print(row, flush=True)
            arguments.output.write_text(json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main()
