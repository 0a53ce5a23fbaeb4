"""Find copies of Pebble's songs by their fingerprints: how many of each kind, and how many pairs that are none.

    python benchmarks/find_copies.py PEBBLE_FOLDER [-o docs/copies.json] [--songs 60]

The copies are made with PyAV's encoders. `carrara dedupe` compares recordings that are near by embedding in this way;
here all pairs of originals and copies are compared. Precision is the fraction of the found pairs that are copies.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import soxr

from carrara.audio.decode import load_audio
from carrara.audio.fingerprint import RATE, audio_fingerprint, find_copies

SOURCE_RATE = 24_000
KINDS = {
    "MP3 128 kbit/s": ("libmp3lame", "mp3", 128_000, lambda x: x),
    "MP3 32 kbit/s": ("libmp3lame", "mp3", 32_000, lambda x: x),
    "AAC 48 kbit/s": ("aac", "m4a", 48_000, lambda x: x),
    "Opus 24 kbit/s": ("libopus", "opus", 24_000, lambda x: soxr.resample(x, 1, 2)),
    "-20 dB, MP3 64 kbit/s": ("libmp3lame", "mp3", 64_000, lambda x: 0.1 * x),
    "from 1.29 s on": ("flac", "flac", 0, lambda x: x[int(1.29 * SOURCE_RATE) :]),
    "3 s, MP3 64 kbit/s": ("libmp3lame", "mp3", 64_000, lambda x: x[48_720 : 48_720 + 3 * SOURCE_RATE]),
    "2 s, MP3 64 kbit/s": ("libmp3lame", "mp3", 64_000, lambda x: x[72_240 : 72_240 + 2 * SOURCE_RATE]),
    "1 % slower": ("flac", "flac", 0, lambda x: soxr.resample(x, 100, 101)),
    "3 % slower": ("flac", "flac", 0, lambda x: soxr.resample(x, 100, 103)),
    "noise at 20 dB": ("flac", "flac", 0, lambda x: with_noise(x, 20)),
    "noise at 10 dB": ("flac", "flac", 0, lambda x: with_noise(x, 10)),
}


def with_noise(samples_T: np.ndarray, decibels: float) -> np.ndarray:
    """Return samples with white noise at a ratio of energies."""
    noise_T = np.random.default_rng(len(samples_T)).standard_normal(len(samples_T))
    return samples_T + noise_T * np.sqrt(np.mean(samples_T**2) / 10 ** (decibels / 10))


def encode(samples_T: np.ndarray, rate: int, path: Path, codec: str, bit_rate: int) -> None:
    """Write mono samples with one of PyAV's encoders."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=rate, layout="mono")
        if bit_rate:
            stream.bit_rate = bit_rate
        frame = av.AudioFrame.from_ndarray(samples_T[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate = rate
        converter = av.AudioResampler(format=stream.codec_context.format or "fltp", layout="mono", rate=rate)
        queue = av.AudioFifo()
        for part in [*converter.resample(frame), *converter.resample(None)]:
            part.pts = None
            queue.write(part)
        size = stream.codec_context.frame_size or 1024
        while (part := queue.read(size) or queue.read()) is not None:
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))


def main() -> None:
    """Print a line for each kind of copy, and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of Pebble, or of any songs")
    parser.add_argument("--songs", type=int, default=60)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    songs = sorted(arguments.folder.rglob("songs/*"))[: arguments.songs]
    originals = [audio_fingerprint(load_audio(song, RATE)) for song in songs]
    kinds: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (codec, ending, bit_rate, change) in KINDS.items():
            prints = []
            for song in songs:
                path = Path(folder) / f"copy.{ending}"
                rate = 2 * SOURCE_RATE if codec == "libopus" else SOURCE_RATE
                encode(change(load_audio(song, SOURCE_RATE)), rate, path, codec, bit_rate)
                prints.append(audio_fingerprint(load_audio(path, RATE)))
            copies = find_copies(originals + prints)
            right = [copy.error for copy in copies if copy.second == copy.first + len(songs)]
            kinds[name] = {
                "found": len(right),
                "of": len(songs),
                "other_pairs": len(copies) - len(right),
                "precision": len(right) / len(copies) if copies else None,
                "largest_error": round(max(right), 3) if right else None,
            }
            print(name, kinds[name], flush=True)
    result = {
        "songs": len(songs),
        "kinds": kinds,
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
