"""An example clip as a picture: its spectrogram over pitch, with the beats that its labels name.

Letters: F frames, K frequency bins, P pitch rows of the picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from carrara.bench.report.plots import svg_style, to_svg

WINDOW, HOPS = 4096, 900
LOWEST, PITCH_ROWS, RANGE_DB = 55.0, 200, 70.0
PITCHES = {"A1": 55, "A2": 110, "A3": 220, "A4": 440, "A5": 880, "A6": 1760, "A7": 3520, "A8": 7040}


def example_plot(samples: np.ndarray, sample_rate: int, labels: Mapping[str, Any], name: str = "example") -> str:
    """Return the spectrogram of a clip as an SVG element.

    Args:
        samples: float, mono, at least one.
        sample_rate: in Hz.
        labels: the clip's labels by name; `beats` and `downbeats`, in seconds, are drawn.
        name: of the plot in its page, unlike every other's.
    """
    from matplotlib.figure import Figure

    seconds = len(samples) / sample_rate
    highest = min(8000.0, sample_rate / 2)
    level_PF = _pitch_spectrogram(np.asarray(samples, dtype=np.float32).reshape(-1), sample_rate, highest)
    with svg_style(name):
        figure = Figure(figsize=(9, 3.1))
        axes = figure.add_subplot()
        extent = (0, seconds, np.log2(LOWEST), np.log2(highest))
        axes.imshow(level_PF, origin="lower", aspect="auto", cmap="magma", extent=extent, interpolation="bilinear")
        ticks = {name: np.log2(hertz) for name, hertz in PITCHES.items() if hertz < highest}
        axes.set_yticks(list(ticks.values()), list(ticks))
        axes.set_xlabel("seconds")
        axes.grid(visible=False)
        for name, height, colour in (("beats", 0.035, "#56b4e9"), ("downbeats", 0.08, "#e69f00")):
            times = _times_within(labels.get(name), seconds)
            if times:
                axes.vlines(
                    times, 1.01, 1.01 + height, color=colour, linewidth=2, clip_on=False,
                    transform=axes.get_xaxis_transform(), label=name,
                )  # fmt: skip
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="lower right", bbox_to_anchor=(1, 1.1), ncols=2, borderaxespad=0)
        axes.set_xlim(0, seconds)
        return to_svg(figure, "Spectrogram of the example clip")


def _pitch_spectrogram(samples: np.ndarray, sample_rate: int, highest: float) -> np.ndarray:
    """Return the level in dB over pitch, up to the highest frequency in Hz, and time, `[P, F]`."""
    hop = max(256, len(samples) // HOPS)
    padded = np.pad(np.nan_to_num(samples), (WINDOW // 2, WINDOW))
    starts = np.arange(0, max(1, len(samples)), hop)
    frames = padded[starts[:, None] + np.arange(WINDOW)] * np.hanning(WINDOW)
    level_FK = np.abs(np.fft.rfft(frames))
    bins_P = np.geomspace(LOWEST, highest, PITCH_ROWS) * WINDOW / sample_rate
    level_PF = np.stack([np.interp(bins_P, np.arange(level_FK.shape[1]), level_K) for level_K in level_FK], axis=1)
    decibel_PF = 20 * np.log10(level_PF + 1e-9)
    return decibel_PF.clip(decibel_PF.max() - RANGE_DB)


def _times_within(times: Any, seconds: float) -> list[float]:
    if not isinstance(times, list | tuple | np.ndarray):
        return []
    return [float(time) for time in times if isinstance(time, int | float | np.number) and 0 <= time <= seconds]
