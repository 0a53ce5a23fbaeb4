"""How fast the spectra are: our CQT, mel and chroma beside librosa's and nnAudio's, in one process.

    python benchmarks/spectra.py --seconds 5 --batch 8 -o docs/spectra.json

Each row is the median CPU time of several calls on the same clips (chords in noise), as times real time per clip,
and the ratio to ours. Kernels and plans are made before the clock starts; librosa's own cache of filters is its own.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import librosa
import numpy as np
import torch
from steps import describe_run

from carrara.nn.spectral.chroma import ChromaSTFT, TunedChroma
from carrara.nn.spectral.cqt import CQT
from carrara.nn.spectral.framing import framing_preset
from carrara.nn.spectral.mel import MelBands, MelSpectrogram
from carrara.nn.spectral.mfcc import MFCC

HOP = 320
Call = Callable[[], object]


def clips(batch: int, seconds: float, rate: int) -> torch.Tensor:
    """Return chords in noise, `[batch, samples]`."""
    draws = np.random.default_rng(0)
    moments = np.arange(int(seconds * rate)) / rate
    chords = [sum(np.sin(2 * np.pi * hertz * moments) for hertz in draws.uniform(40, 2000, 6)) for _ in range(batch)]
    return torch.from_numpy((0.1 * np.array(chords) + 0.03 * draws.standard_normal((batch, len(moments)))).astype("f4"))


def seconds_of(call: Call, runs: int) -> float:
    """Return the median CPU seconds of several calls after a first one."""
    call()
    times = []
    for _ in range(runs):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return statistics.median(times)


def peer_cqt(rate: int, bins: int, octave: int) -> torch.nn.Module:
    """Return nnAudio's time-domain CQT, without what it prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        from nnAudio.features.cqt import CQT1992v2

        return CQT1992v2(rate, hop_length=HOP, fmin=32.7, n_bins=bins, bins_per_octave=octave, pad_mode="constant")


def cqt_rows(rate: int, bins: int, octave: int, x_BT: torch.Tensor) -> dict[str, Call]:
    """Return the calls that compare one CQT."""
    ours, peer, arrays = CQT(rate, HOP, bins, octave), peer_cqt(rate, bins, octave), x_BT.numpy()
    apart = ours(x_BT) - peer(x_BT).transpose(1, 2)
    print(f"   largest difference from nnAudio: {apart.abs().max() / peer(x_BT).max():.1e} of its largest value")
    return {
        "ours": lambda: ours(x_BT),
        "nnAudio CQT1992v2": lambda: peer(x_BT),
        "librosa.cqt": lambda: [
            librosa.cqt(clip, sr=rate, hop_length=HOP, fmin=32.7, n_bins=bins, bins_per_octave=octave)
            for clip in arrays
        ],
    }


def mel_rows(rate: int, x_BT: torch.Tensor) -> dict[str, Call]:
    """Return the calls that compare a log-mel of 128 bands."""
    from nnAudio.features.mel import MelSpectrogram as PeerMel

    ours = MelSpectrogram(rate, framing_preset("librosa", window=1024, hop=HOP), MelBands(128), "ln")
    with contextlib.redirect_stdout(io.StringIO()):
        peer = PeerMel(rate, n_fft=1024, hop_length=HOP, n_mels=128, pad_mode="constant", verbose=False)
    return {
        "ours": lambda: ours(x_BT),
        "nnAudio MelSpectrogram": lambda: peer(x_BT).clamp(min=1e-10).log(),
        "librosa melspectrogram": lambda: [
            np.log(np.maximum(librosa.feature.melspectrogram(y=c, sr=rate, n_fft=1024, hop_length=HOP), 1e-10))
            for c in x_BT.numpy()
        ],
    }


def other_rows(rate: int, x_BT: torch.Tensor) -> dict[str, dict[str, Call]]:
    """Return the calls that compare MFCC, the 264-bin chroma and the tuned chroma of the hand-crafted baseline."""
    mfcc, chroma, tuned, arrays = MFCC(rate), ChromaSTFT(rate), TunedChroma(rate), x_BT.numpy()
    stft = {"sr": rate, "n_chroma": 264, "n_fft": 512, "win_length": 400, "hop_length": HOP, "tuning": 0}
    return {
        "MFCC 20": {
            "ours": lambda: mfcc(x_BT),
            "librosa mfcc": lambda: [librosa.feature.mfcc(y=clip, sr=rate) for clip in arrays],
        },
        "chroma 264 from the STFT": {
            "ours": lambda: chroma(x_BT),
            "librosa chroma_stft": lambda: [librosa.feature.chroma_stft(y=clip, **stft) for clip in arrays],
        },
        "chroma 12 from a tuned CQT": {
            "ours": lambda: [tuned(clip) for clip in x_BT],
            "librosa chroma_cqt": lambda: [librosa.feature.chroma_cqt(y=clip, sr=rate) for clip in arrays],
        },
    }


def measure(rows: dict[str, Call], seconds: float, runs: int) -> dict[str, dict[str, float]]:
    """Return how fast each call is, against real time of so many seconds of audio and against ours."""
    times = {name: seconds_of(call, runs) for name, call in rows.items()}
    return {
        name: {"times_real_time": round(seconds / time), "times_our_time": round(time / times["ours"], 2)}
        for name, time in times.items()
    }


def main() -> None:
    """Print every comparison, and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a clip (default 5)")
    parser.add_argument("--batch", type=int, default=8, help="clips at once (default 8)")
    parser.add_argument("--runs", type=int, default=5, help="calls of each (default 5)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    parser.add_argument("-o", "--output", type=Path, help="JSON file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    comparisons: dict[str, dict[str, Call]] = {}
    with torch.inference_mode():
        for rate in (24_000, 16_000):
            x_BT = clips(options.batch, options.seconds, rate)
            for bins, octave in ((336, 48), (84, 12)):
                comparisons[f"CQT {bins}, {rate} Hz"] = cqt_rows(rate, bins, octave, x_BT)
            comparisons[f"log-mel 128, {rate} Hz"] = mel_rows(rate, x_BT)
        x_BT = clips(options.batch, options.seconds, 22_050)
        comparisons |= {f"{title}, 22050 Hz": rows for title, rows in other_rows(22_050, x_BT).items()}
        result = describe_run(torch.device("cpu"))
        for title, rows in comparisons.items():
            result[title] = measure(rows, options.batch * options.seconds, options.runs)
            print(title, result[title], flush=True)
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
