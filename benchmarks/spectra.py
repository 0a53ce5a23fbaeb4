"""How fast the spectra are: our CQT, mel and chroma beside librosa's and nnAudio's, in one process.

    python benchmarks/spectra.py --seconds 5 --batch 8

Each row is the median CPU time of several calls on the same clips (chords in noise), as times real time per clip,
and the ratio to ours. Kernels and plans are made before the clock starts; librosa's own cache of filters is its own.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import time
from collections.abc import Callable

import librosa
import numpy as np
import torch

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


def show(title: str, rows: dict[str, Call], heard: float, runs: int) -> None:
    """Print one comparison; `heard` is the seconds of sound in a call."""
    took = {name: seconds_of(call, runs) for name, call in rows.items()}
    for name, seconds in took.items():
        print(
            f"   {name:<24} {heard / seconds:8.0f} x real time   {seconds / took['ours']:6.1f} x our time   ({title})"
        )


def main() -> None:
    """Print every comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a clip (default 5)")
    parser.add_argument("--batch", type=int, default=8, help="clips at once (default 8)")
    parser.add_argument("--runs", type=int, default=5, help="calls of each (default 5)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    heard = options.batch * options.seconds
    with torch.inference_mode():
        for rate in (24_000, 16_000):
            x_BT = clips(options.batch, options.seconds, rate)
            for bins, octave in ((336, 48), (84, 12)):
                show(f"CQT {bins}, {rate} Hz", cqt_rows(rate, bins, octave, x_BT), heard, options.runs)
            show(f"log-mel 128, {rate} Hz", mel_rows(rate, x_BT), heard, options.runs)
        x_BT = clips(options.batch, options.seconds, 22_050)
        for title, rows in other_rows(22_050, x_BT).items():
            show(f"{title}, 22050 Hz", rows, heard, options.runs)


if __name__ == "__main__":
    main()
