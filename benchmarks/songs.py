"""What a four-minute MP3 costs on one core: decoding, three excerpts through EfficientNet-Discogs, all through MusiCNN.

    python benchmarks/songs.py -o docs/songs.json

CPU seconds of this process with one thread, the median of several runs after one that is not counted. The song is 44.1
kHz stereo, tones and noise, at libsndfile's default bit rate. Networks have random weights. Songs an hour on two cores
are those of two such processes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from steps import describe_run

import carrara
from carrara.audio.decode import load_audio

RATE = 44_100


def write_song(path: Path, seconds: float) -> None:
    """Write decaying chords with noise as MP3."""
    rng = np.random.default_rng(0)
    time_T = np.arange(round(RATE * seconds), dtype=np.float32) / RATE
    tones_T = sum(np.sin(2 * np.pi * np.float32(110 * 2 ** (step / 12)) * time_T) for step in (0, 7, 16, 22))
    left_T = 0.1 * tones_T * np.exp(-3 * (time_T % 0.5)) + 0.01 * rng.standard_normal(len(time_T), dtype=np.float32)
    soundfile.write(str(path), np.stack([left_T, 0.8 * np.roll(left_T, 441)], 1), RATE, format="MP3")


def cpu_seconds(call: Callable[[], object], runs: int) -> float:
    """Return the median CPU seconds of a call, after one that is not counted."""
    seconds = []
    for _ in range(runs + 1):
        began = time.process_time()
        call()
        seconds.append(time.process_time() - began)
    return round(statistics.median(seconds[1:]), 3)


def main() -> None:
    """Measure all and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    os.environ["THP_MEM_ALLOC_ENABLE"] = "1"  # as the command line has it
    torch.set_num_threads(1)
    result = {**describe_run(torch.device("cpu")), "seconds": arguments.seconds}
    with tempfile.TemporaryDirectory() as folder:
        song = Path(folder) / "song.mp3"
        write_song(song, arguments.seconds)
        decode = cpu_seconds(lambda: load_audio(song, 24_000), arguments.runs)
        result |= {"decode_cpu_seconds": decode, "decode_times_real_time": round(arguments.seconds / decode)}
        for name, sample in (("effnet-discogs:random", "3x10"), ("musicnn-msd:random", None)):
            encoder = carrara.load(name)
            seconds = cpu_seconds(lambda e=encoder, s=sample: carrara.embed(song, e, sample=s), arguments.runs)
            result[name] = {
                "sample": sample,
                "cpu_seconds": seconds,
                "songs_an_hour_of_two_cores": round(7200 / seconds),
            }
            print(name, result[name], flush=True)
            arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
