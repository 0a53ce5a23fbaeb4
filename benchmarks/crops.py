"""A crop from a long compressed file: milliseconds at its beginning and near its end, beside decoding the file whole.

    python benchmarks/crops.py                      an hour of wav, flac, mp3, ogg, opus and m4a; crops of 5 s at 24 kHz
    python benchmarks/crops.py --minutes 10

The peer decodes the file whole (soundfile's read, channels averaged), takes the crop and resamples it, as loaders do
that crop in the collater; where soundfile does not know the format, PyAV decodes. librosa's `load(offset, duration)`
is timed too. The crop must equal the peer's but for its edges. Last, the crop as a member of a tar shard: the member's
bytes are copied first.
"""

from __future__ import annotations

import argparse
import json
import math
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import audioread
import av
import librosa
import numpy as np
import soundfile
import soxr
import torch
from steps import describe_run

from carrara.audio.decode import load_audio
from carrara.core.storage import local_copy

SOURCE, RATE, SECONDS, TIMES = 44_100, 24_000, 5.0, 5
FORMATS = {
    "wav": {"subtype": "PCM_16"},
    "flac": {"subtype": "PCM_16"},
    "mp3": {"subtype": "MPEG_LAYER_III"},
    "ogg": {"subtype": "VORBIS"},
    "opus": {"subtype": "OPUS", "format": "OGG"},
}


def music(minutes: float) -> np.ndarray:
    """Return stereo tones of changing pitch with a little noise, float32."""
    draw = np.random.default_rng(0)
    beat = SOURCE // 2
    time_T = np.arange(beat, dtype=np.float32) / SOURCE
    notes = []
    for pitch in 110 * 2 ** (draw.integers(48, size=int(120 * minutes)) / 12):
        note = sum(np.sin(2 * np.pi * np.float32(pitch * partial) * time_T) / partial for partial in (1, 2, 3))
        notes.append(0.2 * note * np.exp(-3 * time_T) + 0.003 * draw.standard_normal(beat, dtype=np.float32))
    joined = np.concatenate(notes).astype(np.float32)
    return np.stack([joined, np.roll(joined, 40)], axis=1)


def write(path: Path, samples_TC: np.ndarray) -> None:
    """Write a file in the format of its suffix."""
    kind = path.suffix[1:]
    if kind != "m4a":
        # Opus knows no 44.1 kHz.
        rate = 48_000 if kind == "opus" else SOURCE
        # libsndfile overflows its stack over long blocks of Vorbis.
        with soundfile.SoundFile(str(path), "w", rate, 2, **FORMATS[kind]) as file:
            for begin in range(0, len(samples_TC), SOURCE):
                second_TC = samples_TC[begin : begin + SOURCE]
                file.write(second_TC if rate == SOURCE else soxr.resample(second_TC, SOURCE, rate))
        return
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=SOURCE, layout="stereo")
        for begin in range(0, len(samples_TC), 1024):
            block = np.ascontiguousarray(samples_TC[begin : begin + 1024].T)
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts = SOURCE, begin
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def whole(path: Path, start: float) -> np.ndarray:
    """Return a crop of the file decoded whole."""
    if path.suffix == ".m4a":
        with av.open(str(path)) as file:
            frames = [frame.to_ndarray().mean(0) for frame in file.decode(audio=0)]
        samples_T, rate = np.concatenate(frames), SOURCE
    else:
        samples_TC, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
        samples_T = samples_TC.mean(1)
    crop_T = samples_T[int(start * rate) : int((start + SECONDS) * rate)]
    return soxr.resample(crop_T, rate, RATE)


def member(archive: Path, path: Path, start: float) -> np.ndarray:
    """Return a crop of a file in a tar, as the stream of pre-training reads it."""
    with tarfile.open(archive) as tar:
        info = tar.getmember(path.name)
    with local_copy(str(archive), info.offset_data, info.size, path.name) as copy:
        return load_audio(copy, RATE, start, SECONDS)


def best(work: Callable[[], Any], times: int) -> float:
    """Return the least milliseconds of several runs."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return 1e3 * min(found)


def timed(path: Path, late: float) -> dict[str, float | None]:
    """Check one format, time it, print a line and return the milliseconds."""
    ours_T, peers_T = load_audio(path, RATE, late, SECONDS), whole(path, late)
    edge = RATE // 10
    # AAC fills bands with noise of its own, which a seek draws anew.
    if not np.allclose(ours_T[edge:-edge], peers_T[edge : len(ours_T) - edge], atol=5e-3):
        raise SystemExit(f"{path.suffix}: the crop is not that of the whole file")
    shard = path.with_suffix(".tar")
    with tarfile.open(shard, "w") as tar:
        tar.add(path, path.name)
    first, last = (best(lambda start=start: load_audio(path, RATE, start, SECONDS), TIMES) for start in (0.0, late))
    in_tar = best(lambda: member(shard, path, late), TIMES)
    peer = best(lambda: whole(path, late), 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            other = best(lambda: librosa.load(path, sr=RATE, offset=late, duration=SECONDS), 2)
    except audioread.NoBackendError:
        other = None
    megabytes = path.stat().st_size / 1e6
    print(
        f"{path.suffix[1:]:5} {megabytes:6.0f} MB {first:9.1f} {last:9.1f} {in_tar:9.1f} {other or math.nan:9.1f} "
        f"{peer:10.0f}   {peer / last:6.0f} times faster",
        flush=True,
    )
    return {
        name: value and round(value, 1)
        for name, value in (("start", first), ("late", last), ("in_tar", in_tar), ("librosa", other), ("whole", peer))
    }


def main() -> None:
    """Write the files, and time each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="length of the file (default 60)")
    parser.add_argument("-o", "--output", type=Path, help="JSON file of the numbers")
    arguments = parser.parse_args()
    minutes = arguments.minutes
    late = 60 * (minutes - 1)
    print(f"a crop of {SECONDS:g} s from {minutes:g} min of 44.1-kHz stereo, in ms")
    print(f"{'':15}{'at 0 s':>9} {f'at {late:g} s':>9} {'in a tar':>9} {'librosa':>9} {'whole':>10}")
    samples_TC = music(minutes)
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in [*FORMATS, "m4a"]:
            path = Path(folder) / f"long.{kind}"
            write(path, samples_TC)
            result[kind] = timed(path, late)
            path.unlink()
    if arguments.output:
        head = {"unit": "milliseconds", "minutes": minutes, **describe_run(torch.device("cpu"))}
        arguments.output.write_text(json.dumps(result | head, indent=1) + "\n")


if __name__ == "__main__":
    main()
