"""CLMR: a SampleCNN trained on waveforms alone, by contrasting excerpts of a song with excerpts of other songs.

[spijkervet2021], trained on MagnaTagATune; the network is SampleCNN [lee2017]. Waveforms at 22,050 Hz go unchanged
through eleven convolutions of kernel 3, which reduce 3¹⁰ = 59,049 samples (2.7 s) to one frame of 512 numbers.

A clip is split into windows without overlap whose last one is dropped, whole or not, as the authors, JukeMIR and MARBLE
do; the features are the mean over its windows. A clip of at most one window is that window, padded with zeros, where
the others fail. `clmr-native` has the network's own window. `clmr` has JukeMIR's and MARBLE's of 59,409 samples, a
typing error: pooling drops most of the 360 extra samples, but every window after the first starts elsewhere, and the
published benchmark scores use it [notes/encoders §2.2]. MARBLE splits clips into pieces of 30 s and averages their
means.

Weights: `clmr_magnatagatune_mlp.zip` of release 2.1 at github.com/Spijkervet/CLMR, with `clmr_epoch=10000.ckpt` in it.

Letters: B batch, T samples, N windows, W samples of a window, D dimension.
"""

from __future__ import annotations

import itertools
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn

from carrara.core.archives import unpack
from carrara.core.errors import WeightsError
from carrara.core.settings import Settings
from carrara.encoders._base import Card, Encoder, EncoderFamily
from carrara.encoders._windows import mean_over_windows, split_clips
from carrara.formats.magic import wrap_errors
from carrara.formats.safe_pickle import read_torch_checkpoint
from carrara.nn.init import init_weights

VARIANTS = {
    "clmr": "CLMR, 2.4M, 22.05 kHz, waveform, windows of 59,409 samples as in JukeMIR and MARBLE, 512 numbers a clip",
    "clmr-native": "CLMR, 2.4M, 22.05 kHz, waveform, windows of its own 59,049 samples, 512 numbers a clip",
}
_SAMPLE_RATE = 22_050
_MIN_WINDOW = 3**10
_CHANNELS = (128, 128, 128, 256, 256, 256, 256, 256, 256, 512, 512)
_BATCH_SIZE, _GPU_BATCH_SIZE = 2, 8  # windows at once: 10 MB each for each of the first maps
CHECKPOINT_FILE = "clmr_epoch=10000.ckpt"
FILES = {
    "clmr": {"https://github.com/Spijkervet/CLMR/releases/download/2.1/clmr_magnatagatune_mlp.zip": ""},
    "clmr-native": {"https://github.com/Spijkervet/CLMR/releases/download/2.1/clmr_magnatagatune_mlp.zip": ""},
}


class _ClmrSettings(Settings):
    """What can be set.

    Attributes:
        window: samples of a window; from twice the minimum on, the network would give two frames.
    """

    window: int = Field(default=_MIN_WINDOW, ge=_MIN_WINDOW, lt=2 * _MIN_WINDOW)


class _Clmr(Encoder):
    """The network, with random weights of that seed (none under torch's meta device)."""

    settings: _ClmrSettings

    def __init__(self, settings: _ClmrSettings, card: Card, seed: int = 0) -> None:
        super().__init__()
        self.settings, self.card = settings, card
        with torch.device("meta"):
            first, *middle, last = itertools.pairwise((1, *_CHANNELS))
            # The published name, so that weights need no renaming.
            self.sequential = nn.Sequential(
                nn.Sequential(*_convolution(*first, stride=3)),
                *(nn.Sequential(*_convolution(*sizes), nn.MaxPool1d(3)) for sizes in middle),
                nn.Sequential(*_convolution(*last)),
            )
        init_weights(self, self._initialize, seed)

    def num_frames(self, samples: int) -> int:
        """Return 1: a whole clip has one vector."""
        return 1

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the mean over each clip's windows, `[B, 1, 1, D]`."""
        windows = [clmr_windows(samples_T, self.settings.window) for samples_T in split_clips(samples_BT, lengths_B)]
        batch_size = _BATCH_SIZE if samples_BT.device.type == "cpu" else _GPU_BATCH_SIZE
        return mean_over_windows(self.window_features, windows, batch_size)[:, None, None]

    def window_features(self, windows_NW: Tensor) -> Tensor:
        """Return the features of windows, `[N, D]`."""
        return self.sequential(windows_NW[:, None]).flatten(1)

    @property
    def min_samples(self) -> int:
        """Samples from which a clip has a whole window."""
        return self.settings.window + 1

    def window_batch(self, samples_BT: Tensor) -> Tensor:
        """Return the windows of clips of one length, at least `min_samples`, `[B, N, W]`."""
        window = self.settings.window
        count = (samples_BT.shape[1] + window - 1) // window - 1
        return samples_BT[:, : count * window].unflatten(1, (-1, window))

    @torch.no_grad()
    def _initialize(self, generator: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv1d) and module.bias is not None:
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu", generator=generator)
                module.bias.zero_()
            elif isinstance(module, nn.BatchNorm1d):
                module.reset_parameters()


def _convolution(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    """Return a convolution of kernel 3 with its norm and ReLU; padded unless it has a stride."""
    padding = 1 if stride == 1 else 0
    return [nn.Conv1d(inputs, outputs, 3, stride, padding), nn.BatchNorm1d(outputs), nn.ReLU()]


def clmr_windows(samples_T: Tensor, window: int) -> Tensor:
    """Return a clip's windows but the last, `[N, W]`, or its only one padded with zeros."""
    count = max(-(-len(samples_T) // window) - 1, 1)
    missing = max(count * window - len(samples_T), 0)
    return nn.functional.pad(samples_T, (0, missing))[: count * window].view(count, window)


def _load_official(name: str, path: Path) -> Mapping[str, Tensor]:
    """Return the published weights by the network's own names.

    Both kinds are read: Lightning's checkpoint (`model.encoder.` in its `state_dict`), a plain table (`encoder.`).

    Args:
        name: the variant; both have the same weights.
        path: the .ckpt, a folder that holds it, or the release's zip.

    Raises:
        DataError: a damaged zip.
        WeightsError: no such file, or one that is damaged or holds no encoder of CLMR.
    """
    path = Path(path)
    if path.is_file() and zipfile.is_zipfile(path):
        with wrap_errors(path, "a zip"), zipfile.ZipFile(path) as archive:
            # torch's own files are zips too.
            is_release = not any(file.endswith("/data.pkl") for file in archive.namelist())
        if is_release:
            with tempfile.TemporaryDirectory() as folder:
                unpack(path, Path(folder))
                return _read_tensors(_find_checkpoint(Path(folder), str(path)), str(path))
    return _read_tensors(_find_checkpoint(path, str(path)) if path.is_dir() else path, str(path))


def _find_checkpoint(folder: Path, source: str) -> Path:
    files = sorted(folder.rglob(CHECKPOINT_FILE))
    if not files:
        raise WeightsError(f"{source}: holds no {CHECKPOINT_FILE}; give the file itself, or the release's zip")
    return files[0]


def _read_tensors(path: Path, source: str) -> dict[str, Tensor]:
    content, prefix = read_torch_checkpoint(path), "encoder.sequential."
    if isinstance(content, Mapping) and "pytorch-lightning_version" in content:
        content, prefix = content.get("state_dict"), "model." + prefix
    table = content if isinstance(content, Mapping) else {}
    # Neither the tags' layer (`encoder.fc`) nor the projector; copies, because the file may be temporary.
    tensors = {
        "sequential." + str(name).removeprefix(prefix): tensor.clone()
        for name, tensor in table.items()
        if isinstance(tensor, Tensor) and str(name).startswith(prefix)
    }
    if not tensors:
        raise WeightsError(
            f"{source}: has no tensors named {prefix}…, so it is no encoder of CLMR; give {CHECKPOINT_FILE}"
        )
    return tensors


def _variant(name: str, window: int, window_seconds: float | None, setup: str) -> tuple[Card, _ClmrSettings]:
    card = Card(
        name=name,
        sample_rate=_SAMPLE_RATE,
        frame_rate=None,
        num_layers=0,
        dim=_CHANNELS[-1],
        window_seconds=window_seconds,
        parameters=2_368_512,
        license="Apache-2.0 (of the repository; none stated for the weights)",
        trained_on=("magnatagatune",),
        # 25,863 clips of 29 s; the thesis states the hours of the Million Song Dataset, its other corpus.
        training_hours=(208, 1700),
        pretraining_task="contrastive learning",
        input="waveform",
        network=f"{len(_CHANNELS)} convolutions",
        context_seconds=round(window / _SAMPLE_RATE, 2),
        stride_seconds=round(window / _SAMPLE_RATE, 2),
        paper="Spijkervet and Burgoyne 2021, Contrastive Learning of Musical Representations, ISMIR, "
        "https://arxiv.org/abs/2103.09410",
        benchmark_setup=setup,
        files=FILES[name],
    )
    return card, _ClmrSettings(window=window)


ENCODER = EncoderFamily(
    _ClmrSettings,
    _Clmr,
    {
        "clmr": _variant(
            "clmr",
            59_409,
            30.0,
            "JukeMIR, MARBLE: windows of 59,409 samples (2.69 s), no overlap, the last left out; mean over windows "
            "(MARBLE: of each 30 s, then over these); samples as they are",
        ),
        "clmr-native": _variant(
            "clmr-native",
            _MIN_WINDOW,
            None,
            "none known: windows of 59,049 samples (2.68 s), no overlap, the last left out; mean over windows; "
            "samples as they are",
        ),
    },
    load_official=_load_official,
)
