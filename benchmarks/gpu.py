"""What one GPU does: matrix rate, encoding, a training step, reading crops, the probe grid, agreement with the CPU.

    python benchmarks/gpu.py -o gpu.json                                under eight minutes on an H200, without network
    python benchmarks/gpu.py --device cpu --small -o /tmp/gpu.json      tiny networks, to test this script on a CPU
    python benchmarks/gpu.py --only encode --only train

Each section has a budget of seconds; one that fails or exceeds it prints a line, keeps its rows, and the next begins.
The JSON file is written after every section. Sections:

- matrix: TFLOP/s of a large square product, in float32 without and with TF32, and in bfloat16.
- sanity: features and the loss of a training step beside those of the CPU in float32, with the same weights. Errors are
  relative to the largest value of a layer of a clip. In float32, without TF32 as in all sections but the first, 1e-5 is
  allowed; in bfloat16 one and a half times the error of the CPU's own bfloat16, which is about 2e-2.
- train: a step of masked prediction of eight codebooks of 1024 in bfloat16, labels given, at batch 64 of 5-s crops:
  eager and compiled, without and with activation checkpointing, and a plain loop over HubertModel. MFU is three times
  the forward pass's operations over the step's time and the measured bfloat16 matrix rate.
- data: the fraction of time that such steps wait for crops read from WAV (24 kHz, mono) and FLAC (44.1 kHz, stereo).
- encode: features of every layer of our mert-v1-95m and of transformers' HubertModel with the same weights, in turn,
  from 5-s crops that are already standardised. Compiled means the convolutions and each Transformer layer, of both.
- embed: `carrara embed` of MP3 songs beside the slower of decoding alone and encoding alone, as in end_to_end.py.
- grid: an epoch of 84 stacked probes beside one probe after another, as in grid.py.

All weights are random.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grid
import numpy as np
import soundfile
import torch
from end_to_end import embed_stages, measure_stages, write_songs
from steps import (
    HubertLoss,
    MaskedBatch,
    MaskedPredictionLoss,
    NetworkSize,
    describe_run,
    draw_masked_batch,
    hubert_encoder,
    hubert_peer,
    make_step,
    synchronize,
    time_in_turn,
)
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from carrara.bench.probes.examples import Examples
from carrara.bench.probes.grid import ProbeProblem
from carrara.bench.protocols.constrained import grid_points
from carrara.bench.task_types.multiclass import TASK_TYPE
from carrara.pretrain.corpus.build import build_corpus
from carrara.pretrain.corpus.stream import CropStream

RATE, STRIDE, CODEBOOKS = 24_000, 320, (1024,) * 8
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
FLOAT32_TOLERANCE = 1e-5
Rows = list[dict[str, Any]]


class OverBudgetError(BaseException):
    """A section took longer than its budget; no `except Exception` of a compiler stops it."""


@dataclass
class Setup:
    """What every section measures with.

    Attributes:
        device: that is measured.
        small: whether all is tiny.
        size: of the encoder.
        crop_seconds: length of a crop.
        encode_batches: batch sizes of encoding.
        train_batch: crops of a training step.
        matrix_rates: operations a second by precision, as the section matrix measured them.
    """

    device: torch.device
    small: bool
    size: NetworkSize
    crop_seconds: float
    encode_batches: tuple[int, ...]
    train_batch: int
    matrix_rates: dict[str, float] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        """Timed calls of each."""
        return 2 if self.small else 15

    @property
    def samples(self) -> int:
        """Samples of a crop."""
        return round(self.crop_seconds * RATE)

    def masked_batch(self) -> MaskedBatch:
        """Return masks and labels of a training step."""
        return draw_masked_batch(self.train_batch, self.samples, CODEBOOKS)

    def compile(self, network: Any) -> None:
        """Compile the convolutions and each Transformer layer, of our network or of the peer's."""
        backend = "eager" if self.small else "inductor"
        network.feature_extractor.compile(backend=backend, dynamic=False)
        for layer in network.encoder.layers:
            layer.compile(backend=backend, dynamic=False)


def standardized_crops(batch: int, samples: int) -> Tensor:
    """Return noise of mean 0 and variance 1, `[B, T]`."""
    samples_BT = torch.randn(batch, samples, generator=torch.Generator().manual_seed(0))
    return (samples_BT - samples_BT.mean(1, keepdim=True)) / samples_BT.std(1, keepdim=True)


def print_row(row: dict[str, Any]) -> None:
    """Print a row while its section goes on."""
    values = (f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in row.items())
    print(" " * 8, " ".join(values), flush=True)


def allow_tf32(allowed: bool) -> None:
    """Allow or forbid TF32 in matrix products and convolutions in float32."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def measure_matrix_rate(setup: Setup, rows: Rows) -> str:
    """Measure TFLOP/s of a square product."""
    size = 128 if setup.small else 8192
    for name, tf32 in (("float32", False), ("tf32", True), ("bfloat16", False)):
        a, b = (torch.randn(size, size, device=setup.device, dtype=DTYPES.get(name)) for _ in range(2))
        allow_tf32(tf32)
        seconds = time_in_turn({name: lambda a=a, b=b: a @ b}, setup.rounds, setup.device, warm_up=3)[name]
        allow_tf32(False)
        setup.matrix_rates[name] = 2 * size**3 / seconds
        rows.append({"precision": name, "size": size, "tflops": setup.matrix_rates[name] / 1e12})
    return ", ".join(f"{row['precision']} {row['tflops']:.3g} TFLOP/s" for row in rows)


def compare_with_cpu(setup: Setup, rows: Rows) -> str:
    """Compare features, and the loss and gradient of a training step, with those of the CPU.

    Raises:
        ArithmeticError: they differ by more than the tolerance.
    """
    cpu, crops = torch.device("cpu"), 2
    samples_BT = standardized_crops(crops, setup.samples)
    encoder = hubert_encoder(setup.size, dropout=0.0).eval()
    networks = {"cpu": encoder, "device": copy.deepcopy(encoder).to(setup.device)}
    features = {}
    for name, network in networks.items():
        device = cpu if name == "cpu" else setup.device
        for precision, dtype in DTYPES.items():
            with torch.no_grad(), torch.autocast(device.type, dtype, enabled=precision != "float32"):
                features[name, precision] = network(samples_BT.to(device)).float().cpu()
    reference_BLFD = features["cpu", "float32"]

    def relative_error(features_BLFD: Tensor) -> float:
        difference_BL = (features_BLFD - reference_BLFD).abs().amax((2, 3))
        return float((difference_BL / reference_BLFD.abs().amax((2, 3))).max())

    for precision in DTYPES:
        error, cpu_error = (relative_error(features[name, precision]) for name in ("device", "cpu"))
        tolerance = max(FLOAT32_TOLERANCE, 1.5 * cpu_error)
        rows.append({"compared": f"features in {precision}", "error": error, "tolerance": tolerance})
    objective = MaskedPredictionLoss(setup.size, draw_masked_batch(crops, setup.samples, CODEBOOKS), dropout=0.0)
    results = []
    for each, device in ((objective, cpu), (copy.deepcopy(objective).to(setup.device), setup.device)):
        loss = each(samples_BT.to(device))
        loss.backward()
        gradients = [parameter.grad for parameter in each.parameters() if parameter.grad is not None]
        results.append((float(loss.detach()), float(nn.utils.get_total_norm(gradients))))
    for name, own, other, tolerance in zip(("loss", "gradient norm"), *results, (FLOAT32_TOLERANCE, 1e-3)):
        rows.append({"compared": name, "cpu": own, "error": abs(other / own - 1), "tolerance": tolerance})
    text = ", ".join(f"{row['compared']} {row['error']:.1e}" for row in rows)
    if any(not row["error"] <= row["tolerance"] for row in rows):
        raise ArithmeticError(f"differs from the CPU: {text}")
    return f"relative errors: {text}"


def forward_flops(setup: Setup, network: Any) -> int:
    """Return the operations of one crop's forward pass."""
    # Not every fused attention is counted.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, setup.samples, device=setup.device))
    return counter.get_total_flops()


def measure_training(setup: Setup, rows: Rows) -> str:
    """Measure a step in seconds, MFU and peak memory."""
    samples_BT = standardized_crops(setup.train_batch, setup.samples).to(setup.device)
    for name, is_compiled in (("ours", False), ("ours", True), ("transformers", False)):
        loss = MaskedPredictionLoss if name == "ours" else HubertLoss
        objective = loss(setup.size, setup.masked_batch()).to(setup.device)
        flops = 3 * setup.train_batch * forward_flops(setup, objective.network)
        if is_compiled:
            setup.compile(objective.network)
        step = make_step(objective, torch.bfloat16)
        for checkpointing in (False, True) if name == "ours" else (False,):
            if name == "ours":
                objective.network.encoder.activation_checkpointing = checkpointing
            rows.append(_time_step(setup, lambda step=step: step(samples_BT), flops))
            rows[-1] |= {"implementation": name, "compiled": is_compiled, "activation_checkpointing": checkpointing}
            print_row(rows[-1])
        del objective, step
        _free_memory(setup.device)
    best = min((row for row in rows if row["implementation"] == "ours"), key=lambda row: row["seconds"])
    return f"{best['seconds']:.4f} s a step of {setup.train_batch} crops at best (compiled: {best['compiled']})"


def _time_step(setup: Setup, call: Callable[[], Tensor], flops: float) -> dict[str, Any]:
    """Return a row of a training step's time, MFU and memory."""
    if setup.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(setup.device)
    began = time.perf_counter()
    first_loss = float(call())
    first_seconds = time.perf_counter() - began
    seconds = time_in_turn({"step": call}, setup.rounds, setup.device, warm_up=2)["step"]
    rate = setup.matrix_rates.get("bfloat16")
    return {
        "batch": setup.train_batch,
        "seconds": seconds,
        "first_seconds": first_seconds,
        "audio_hours_per_hour": setup.train_batch * setup.crop_seconds / seconds,
        "tflops": flops / seconds / 1e12,
        "mfu": flops / seconds / rate if rate else None,
        "peak_memory_gb": torch.cuda.max_memory_allocated(setup.device) / 1e9 if setup.device.type == "cuda" else None,
        "first_loss": first_loss,
    }


def measure_data_wait(setup: Setup, rows: Rows) -> str:
    """Measure which fraction of the time training steps wait for crops from files."""
    objective = MaskedPredictionLoss(setup.size, setup.masked_batch()).to(setup.device)
    step = make_step(objective, torch.bfloat16)
    files, file_seconds, steps, warm_up = (2, 3, 3, 1) if setup.small else (64, 30, 40, 8)
    for kind, rate, channels in (("wav", 24_000, 1), ("flac", 44_100, 2)):
        with tempfile.TemporaryDirectory() as folder:
            for index in range(files):
                write_tones(Path(folder) / f"{index}.{kind}", rate, channels, file_seconds, index)
            corpus = build_corpus([folder], RATE, setup.samples)
            stream = CropStream(corpus, setup.samples, STRIDE, setup.train_batch, seed=0)
            waited = began = 0.0
            free = time.perf_counter()
            for number, batch in enumerate(stream.iter_batches(0, steps)):
                now = time.perf_counter()
                waited += now - free
                if number == warm_up:
                    waited, began = 0.0, now
                step(batch.samples_BT.to(setup.device))
                synchronize(setup.device)
                free = time.perf_counter()
            seconds = free - began
        rows.append(
            {
                "format": f"{kind}, {rate} Hz, {channels} channels",
                "waiting_fraction": waited / seconds,
                "seconds_a_step": seconds / (steps - warm_up),
                "crops_a_second": setup.train_batch * (steps - warm_up) / seconds,
            }
        )
    return ", ".join(f"{row['format'].split(',')[0]} {row['waiting_fraction']:.1%} waiting" for row in rows)


def write_tones(path: Path, rate: int, channels: int, seconds: float, seed: int) -> None:
    """Write decaying tones with a little noise as 16-bit audio."""
    rng = np.random.default_rng(seed)
    time_T = np.arange(round(rate * seconds), dtype=np.float32) / rate
    pitches = 110 * 2 ** (rng.integers(48, size=8) / 12)
    tones_T = sum(np.sin(2 * np.pi * np.float32(pitch) * time_T) for pitch in pitches) * np.exp(-3 * (time_T % 0.5))
    noise_TC = rng.standard_normal((len(time_T), channels), dtype=np.float32)
    soundfile.write(str(path), 0.05 * tones_T[:, None] + 0.003 * noise_TC, rate, subtype="PCM_16")


def measure_encoding(setup: Setup, rows: Rows) -> str:
    """Measure hours of audio an hour, ours and the peer in turn."""
    ours, peer = hubert_encoder(setup.size).eval(), hubert_peer(setup.size).eval()
    peer.load_state_dict(ours.state_dict())
    ours, peer = ours.to(setup.device), peer.to(setup.device)
    for is_compiled in (False, True):
        if is_compiled:
            setup.compile(ours)
            setup.compile(peer)
        for precision in ("bfloat16", "float32"):
            for batch in setup.encode_batches:
                samples_BT = standardized_crops(batch, setup.samples).to(setup.device)
                rows.append(
                    {
                        "precision": precision,
                        "compiled": is_compiled,
                        "batch": batch,
                        **_time_encoders(setup, ours, peer, samples_BT, precision),
                    }
                )
                print_row(rows[-1])
                if is_compiled:
                    torch.compiler.reset()
    ratios = [row["ratio"] for row in rows]
    fastest = max(row["ours_hours_per_hour"] for row in rows)
    return f"up to {fastest:,.0f} h of audio an hour; {min(ratios):.2f} to {max(ratios):.2f} times the peer's rate"


def _time_encoders(setup: Setup, ours: Any, peer: Any, samples_BT: Tensor, precision: str) -> dict[str, float]:
    """Return hours of audio an hour of both, the ratio, and the largest relative difference of the last layer."""
    calls = {
        "ours": lambda: ours(samples_BT),
        "transformers": lambda: peer(samples_BT, output_hidden_states=True).hidden_states,
    }
    enabled = precision != "float32"
    with torch.no_grad(), torch.autocast(setup.device.type, torch.bfloat16, enabled=enabled):
        seconds = time_in_turn(calls, setup.rounds, setup.device, warm_up=2)
        own, other = calls["ours"]()[:, -1].float(), calls["transformers"]()[-1].float()
    hours = {name: len(samples_BT) * setup.crop_seconds / value for name, value in seconds.items()}
    return {
        "ours_hours_per_hour": hours["ours"],
        "transformers_hours_per_hour": hours["transformers"],
        "ratio": seconds["transformers"] / seconds["ours"],
        "difference": float((own - other).abs().max() / other.abs().max()),
    }


def measure_embedding(setup: Setup, rows: Rows) -> str:
    """Measure embedding songs whole beside decoding and encoding alone."""
    encoder, device, threads = hubert_encoder(setup.size).eval(), str(setup.device), min(os.cpu_count() or 1, 16)
    songs, seconds = (3, 2.0) if setup.small else (64, 120.0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = write_songs(folder, songs, seconds)
        stages = embed_stages(encoder, files, None, device, threads, folder)
        rows.append({"songs": songs, "seconds": seconds, "threads": threads, **measure_stages(stages, 3, device)})
    return f"{rows[0]['ratio']:.0%} of the slower of decoding and encoding"


def measure_grid(setup: Setup, rows: Rows) -> str:
    """Measure an epoch of stacked probes beside one probe after another."""
    train_clips, valid_clips, num_probes, num_timed = (128, 64, 4, 2) if setup.small else (5000, 1000, 84, 14)
    rng = np.random.default_rng(0)

    def noise(clips: int) -> Examples:
        layers = {str(layer): rng.standard_normal((clips, grid.DIM), dtype=np.float32) for layer in range(13)}
        halves = {layer: values_ND.astype(np.float16) for layer, values_ND in layers.items()}
        return Examples.from_rows(halves, rng.integers(0, grid.CLASSES, clips))

    train, valid = noise(train_clips), noise(valid_clips)
    labels_R = torch.from_numpy(valid.targets_R)
    problem = ProbeProblem(
        train, valid, TASK_TYPE.loss, lambda logits_PRK: (logits_PRK.argmax(-1) == labels_R).float().mean(1).tolist()
    )
    points = grid_points(tuple(train.layers), (1234,))
    specs = [points[index] for index in np.linspace(0, len(points) - 1, num_probes).round().astype(int)]
    timed = [specs[index] for index in np.linspace(0, num_probes - 1, num_timed).round().astype(int)]
    name = str(setup.device)
    stacked = grid.grid_seconds(problem, specs, 1 if setup.small else 5, name)
    plain = grid.plain_seconds(problem, specs, timed, name, torch.get_num_threads())
    rows.append({"probes": num_probes, "stacked_seconds": stacked, "plain_seconds": plain, "ratio": plain / stacked})
    return (
        f"{num_probes} probes: {stacked:.3f} s an epoch, {plain:.3f} s one after another: {plain / stacked:.1f} times"
    )


SECTIONS: dict[str, tuple[Callable[[Setup, Rows], str], float]] = {
    "matrix": (measure_matrix_rate, 15),
    "sanity": (compare_with_cpu, 60),
    "train": (measure_training, 120),
    "data": (measure_data_wait, 60),
    "encode": (measure_encoding, 140),
    "embed": (measure_embedding, 30),
    "grid": (measure_grid, 50),
}


def run_section(name: str, setup: Setup) -> dict[str, Any]:
    """Run a section within its budget, print its line, and return its status and rows."""
    measure, budget = SECTIONS[name]
    rows: Rows = []
    began = time.perf_counter()
    # Again every 5 s, because a signal in a destructor is lost.
    signal.setitimer(signal.ITIMER_REAL, budget, 5)
    try:
        text, status = measure(setup, rows), "ok"
    except (Exception, OverBudgetError) as problem:
        status = "over budget" if isinstance(problem, OverBudgetError) else "failed"
        text = f"{type(problem).__name__}: {problem}".strip().splitlines()[0]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    seconds = time.perf_counter() - began
    print(f"{name:<8} {status}, {seconds:.0f} of {budget} s, {len(rows)} rows: {text}", flush=True)
    torch.compiler.reset()
    _free_memory(setup.device)
    return {"status": status, "seconds": seconds, "budget": budget, "text": text, "rows": rows}


def _free_memory(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def stop_section(number: int, frame: object) -> None:
    """End the section when its time is spent."""
    raise OverBudgetError("the time is spent")


def main() -> None:
    """Measure all sections; exit with 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu (default cuda)")
    parser.add_argument("--small", action="store_true", help="tiny networks and few repetitions")
    parser.add_argument("--only", action="append", choices=SECTIONS, help="measure this section; may be repeated")
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu.json"), help="default gpu.json")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --device cpu --small tests this script without one")
    if arguments.small:
        setup = Setup(device, True, NetworkSize(16, 32, 2, 4), 1.0, (2, 1), 2)
    else:
        setup = Setup(device, False, NetworkSize(), 5.0, (64, 8, 1), 64)
    allow_tf32(False)
    signal.signal(signal.SIGALRM, stop_section)
    results: dict[str, Any] = {**describe_run(device), "small": arguments.small, "sections": {}}
    print(f"{results['device']}, driver {results['driver']}, torch {torch.__version__}", flush=True)
    for name in arguments.only or SECTIONS:
        results["sections"][name] = run_section(name, setup)
        arguments.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if any(section["status"] == "failed" for section in results["sections"].values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
