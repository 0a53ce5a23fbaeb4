"""How near `carrara embed` comes to the slower of decoding alone and encoding alone, in turn in one process.

    python benchmarks/end_to_end.py -o docs/end_to_end.json
    python benchmarks/end_to_end.py --encoder musicnn-mtt:random --threads 1 --rounds 5 -o /tmp/end.json

The songs are MP3 (44.1 kHz, stereo). `embed` writes their embeddings to Parquet. `decode` is the same with a network
that returns zeros at once, `encode` calls the network on the same batches, held in memory. The ratio is that of the
slower of the last two to `embed` in the same round: median, smallest and largest. With one thread, decoding and
encoding have a core each. With more, they share the cores; `bound` is the ratio of a run without any idle time: the
slower of the two over the CPU seconds of both, divided among the cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from songs import write_song
from steps import describe_run, synchronize
from torch import Tensor

import carrara
from carrara.encoders._base import Encoder
from carrara.features.embed_config import EmbedConfig
from carrara.features.encode import encoder_autocast
from carrara.features.parquet import write_embeddings

# Encoder: its --sample, and how many songs of how many seconds.
CASES: dict[str, tuple[str | None, int, float]] = {
    "musicnn-mtt:random": (None, 6, 120.0),
    "effnet-discogs:random": ("3x10", 64, 240.0),
    "clmr:random": (None, 6, 120.0),
    "mert-v1-95m:random": (None, 4, 30.0),
}


def write_songs(folder: Path, songs: int, seconds: float) -> list[Path]:
    """Return MP3 files of the same music."""
    files = [folder / f"{number}.mp3" for number in range(songs)]
    write_song(files[0], seconds)
    for file in files[1:]:
        os.link(files[0], file)
    return files


def embed_stages(
    encoder: Encoder, files: Sequence[Path], sample: str | None, device: str, threads: int, folder: Path
) -> dict[str, Callable[[], object]]:
    """Return the calls by name, after one of each but `encode`, whose batches they gave."""
    os.environ |= {"CARRARA_HOME": str(folder / "home"), "CARRARA_PROGRESS": "0"}
    batches: list[tuple[Tensor, Tensor]] = []
    network, card = encoder.mean_frames, encoder.card

    def record(samples_BT: Tensor, lengths_B: Tensor) -> Tensor:
        batches.append((samples_BT.cpu(), lengths_B.cpu()))
        return network(samples_BT, lengths_B)

    def skip(samples_BT: Tensor, lengths_B: Tensor) -> Tensor:
        return samples_BT.new_zeros(len(samples_BT), card.num_layers + 1, card.dim)

    def embed() -> object:
        output = folder / "songs.parquet"
        output.unlink(missing_ok=True)
        return write_embeddings(encoder, files, output, EmbedConfig(sample=sample), device, threads=threads)

    def embed_with(function: Callable[[Tensor, Tensor], Tensor]) -> object:
        encoder.mean_frames = function
        try:
            return embed()
        finally:
            del encoder.mean_frames

    def decode() -> object:
        return embed_with(skip)

    def encode() -> None:
        with torch.inference_mode(), encoder_autocast(device):
            for samples_BT, lengths_B in batches:
                network(samples_BT.to(device), lengths_B.to(device))

    embed_with(record)
    decode()
    return {"decode": decode, "encode": encode, "embed": embed}


def measure_stages(stages: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, Any]:
    """Return the median seconds of each stage, called in turn, and the ratios."""
    wall: dict[str, list[float]] = {name: [] for name in stages}
    cpu: dict[str, list[float]] = {name: [] for name in stages}
    for _ in range(rounds):
        for name, call in stages.items():
            began = time.perf_counter(), time.process_time()
            call()
            synchronize(torch.device(device))
            wall[name].append(time.perf_counter() - began[0])
            cpu[name].append(time.process_time() - began[1])
    slower = [max(pair) for pair in zip(wall["decode"], wall["encode"])]
    ratios = [own / whole for own, whole in zip(slower, wall["embed"])]
    work = statistics.median(cpu["decode"]) + statistics.median(cpu["encode"])
    return {
        **{f"{name}_seconds": round(statistics.median(values), 3) for name, values in wall.items()},
        **{f"{name}_cpu_seconds": round(statistics.median(values), 3) for name, values in cpu.items()},
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(min(ratios), 3), round(max(ratios), 3)],
        "bound": round(min(1.0, statistics.median(slower) / (work / (os.cpu_count() or 1))), 3),
    }


def main() -> None:
    """Measure every encoder and write the JSON file after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", action="append", choices=CASES, help="default: all")
    parser.add_argument("--threads", type=int, action="append", help="default 1 and 2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--songs", type=int, help="default: what suits the encoder")
    parser.add_argument("--seconds", type=float, help="of a song; default: what suits the encoder")
    parser.add_argument("-o", "--output", type=Path, required=True, help="measurements of others in it stay")
    arguments = parser.parse_args()
    os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "THP_MEM_ALLOC_ENABLE": "1"}  # as the command line has them
    result = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    for name in arguments.encoder or CASES:
        sample, songs, seconds = CASES[name]
        songs, seconds = arguments.songs or songs, arguments.seconds or seconds
        encoder = carrara.load(name)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            files = write_songs(folder, songs, seconds)
            for threads in arguments.threads or (1, 2):
                torch.set_num_threads(threads)
                stages = embed_stages(encoder, files, sample, "cpu", threads, folder)
                values = measure_stages(stages, arguments.rounds, "cpu")
                case = {"sample": sample, "songs": songs, "seconds": seconds, "rounds": arguments.rounds, **values}
                result[f"{name}, {threads} threads"] = {**case, **describe_run(torch.device("cpu"))}
                print(name, threads, values, flush=True)
                arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
