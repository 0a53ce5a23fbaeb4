"""CLMR: a SampleCNN that learnt from waveforms alone, by telling excerpts of one song from excerpts of others.

Spijkervet and Burgoyne 2021, "Contrastive Learning of Musical Representations" (ISMIR, arXiv 2103.09410), trained on
MagnaTagATune; network: Lee, Park, Kim, Nam 2017, SampleCNN. Waveforms at 22,050 Hz as they are go through eleven
convolutions of kernel 3, which take 3¹⁰ = 59,049 samples (2.7 s) down to one frame of 512 numbers.

A clip is cut into windows without overlap whose last one is left out, whole or not, as the authors, JukeMIR and MARBLE
do; the features are the mean over its windows. A clip of at most one window is that window, filled up with zeros, where
the others fail. `clmr-native` has the network's own window. `clmr` has JukeMIR's and MARBLE's of 59,409 samples, a slip
of the pen: pooling loses most of the 360 samples too many, but every window after the first lies elsewhere, and the
published benchmark scores are of this one. MARBLE hears clips in pieces of 30 s and takes the mean of their means.

Weights: `clmr_magnatagatune_mlp.zip` of release 2.1 at github.com/Spijkervet/CLMR, with `clmr_epoch=10000.ckpt` in it.

Letters: B batch, T samples, N windows, W samples of a window, C channels, F frames, D width.
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
from carrara.formats.safe_pickle import read_torch_checkpoint
from carrara.formats.magic import wrap_errors
from carrara.nn.init import init_weights

VARIANTS = {
    "clmr": "CLMR, 2.4M, 22.05 kHz, waveform, windows of 59,409 samples as in JukeMIR and MARBLE, 512 numbers a clip",
    "clmr-native": "CLMR, 2.4M, 22.05 kHz, waveform, windows of its own 59,049 samples, 512 numbers a clip",
}
SAMPLE_RATE = 22_050
SHORTEST = 3**10
CHANNELS = (128, 128, 128, 256, 256, 256, 256, 256, 256, 512, 512)
BLOCK = 8  # windows at once: 80 MB for each of the first maps
FILE = "clmr_epoch=10000.ckpt"
LIGHTNING = "pytorch-lightning_version"
BENCHMARKS = {
    "clmr": "JukeMIR, MARBLE: windows of 59,409 samples (2.69 s), no overlap, the last left out; mean over windows "
    "(MARBLE: of each 30 s, then over these); samples as they are",
    "clmr-native": "none known: windows of 59,049 samples (2.68 s), no overlap, the last left out; mean over windows; "
    "samples as they are",
}
FILES = {
    "clmr": {"https://github.com/Spijkervet/CLMR/releases/download/2.1/clmr_magnatagatune_mlp.zip": ""},
    "clmr-native": {"https://github.com/Spijkervet/CLMR/releases/download/2.1/clmr_magnatagatune_mlp.zip": ""},
}


class ClmrSettings(Settings):
    """What can be set.

    Attributes:
        window: samples of a window; from twice the shortest on, the network would give two frames.
    """

    window: int = Field(default=SHORTEST, ge=SHORTEST, lt=2 * SHORTEST)


def convolution(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    """Return a convolution of kernel 3 with its norm and ReLU; only one without a stride is padded."""
    padding = 1 if stride == 1 else 0
    return [nn.Conv1d(inputs, outputs, 3, stride, padding), nn.BatchNorm1d(outputs), nn.ReLU()]


class Clmr(Encoder):
    """The network, with random weights drawn from a generator of that seed (none under torch's meta device)."""

    settings: ClmrSettings

    def __init__(self, settings: ClmrSettings, card: Card, seed: int = 0) -> None:
        super().__init__()
        self.settings, self.card = settings, card
        with torch.device("meta"):
            first, *middle, last = itertools.pairwise((1, *CHANNELS))
            # The published name, so that weights need no map.
            self.sequential = nn.Sequential(
                nn.Sequential(*convolution(*first, stride=3)),
                *(nn.Sequential(*convolution(*sizes), nn.MaxPool1d(3)) for sizes in middle),
                nn.Sequential(*convolution(*last)),
            )
        init_weights(self, self._initialise, seed)

    def frames(self, samples: int) -> int:
        """Return 1: a whole clip gives one row of numbers."""
        return 1

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the mean over each clip's windows, `[B, 1, 1, D]`; windows go through the network a few at a time."""
        lengths = [samples_BT.shape[-1]] * len(samples_BT) if lengths_B is None else lengths_B.tolist()
        cut = [clmr_windows(samples_T[:n], self.settings.window) for samples_T, n in zip(samples_BT.float(), lengths)]
        windows_NW = torch.cat(cut)
        features_ND = torch.cat([self.sequential(block[:, None]).flatten(1) for block in windows_NW.split(BLOCK)])
        means = [features.mean(dim=0) for features in features_ND.split([len(found) for found in cut])]
        return torch.stack(means)[:, None, None]

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv1d) and module.bias is not None:
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu", generator=generator)
                module.bias.zero_()
            elif isinstance(module, nn.BatchNorm1d):
                module.reset_parameters()


def clmr_windows(samples_T: Tensor, window: int) -> Tensor:
    """Return a clip's windows but the last, `[N, W]`, or its only one filled up with zeros."""
    count = max(-(-len(samples_T) // window) - 1, 1)
    missing = max(count * window - len(samples_T), 0)
    return nn.functional.pad(samples_T, (0, missing))[: count * window].view(count, window)


def network(settings: ClmrSettings, card: Card, seed: int) -> Clmr:
    """Return the encoder with random weights."""
    return Clmr(settings, card, seed)


def official(name: str, path: Path) -> Mapping[str, Tensor]:
    """Return the published weights by the network's own names.

    Both spellings are read: Lightning's checkpoint (`model.encoder.` in its `state_dict`), a plain table (`encoder.`).

    Args:
        name: the variant; both have the same weights.
        path: the .ckpt, a folder that holds it, or the release's zip.

    Raises:
        DataError: a zip that is not whole.
        WeightsError: no such file, not whole, or without an encoder of CLMR.
    """
    path = Path(path)
    if _is_release(path):
        with tempfile.TemporaryDirectory() as folder:
            unpack(path, Path(folder))
            return _tensors(_checkpoint(Path(folder), str(path)), str(path))
    return _tensors(_checkpoint(path, str(path)) if path.is_dir() else path, str(path))


def _is_release(path: Path) -> bool:
    """Say whether it is a zip of files; torch's own files are zips too."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with wrap_errors(path, "a zip"), zipfile.ZipFile(path) as opened:
        return not any(name.endswith("/data.pkl") for name in opened.namelist())


def _checkpoint(folder: Path, source: str) -> Path:
    found = sorted(folder.rglob(FILE))
    if not found:
        raise WeightsError(f"{source}: holds no {FILE}; give the file itself, or the release's zip")
    return found[0]


def _tensors(path: Path, source: str) -> dict[str, Tensor]:
    content = read_torch_checkpoint(path)
    if isinstance(content, Mapping) and LIGHTNING in content:
        content, prefix = content.get("state_dict"), "model.encoder."
    else:
        prefix = "encoder."
    table = content if isinstance(content, Mapping) else {}
    # Not the layer of the tags (`encoder.fc`), nor the projector.
    prefix += "sequential."
    named = {str(name): tensor for name, tensor in table.items() if isinstance(tensor, Tensor)}
    # A copy, because the file may be a passing one.
    tensors = {
        "sequential." + name.removeprefix(prefix): tensor.clone()
        for name, tensor in named.items()
        if name.startswith(prefix)
    }
    if not tensors:
        raise WeightsError(f"{source}: has no tensors named {prefix}…, so it is no encoder of CLMR; give {FILE}")
    return tensors


def _variant(name: str, window: int, window_seconds: float | None) -> tuple[Card, ClmrSettings]:
    card = Card(
        name=name,
        sample_rate=SAMPLE_RATE,
        frame_rate=None,
        num_layers=0,
        dim=CHANNELS[-1],
        window_seconds=window_seconds,
        parameters=2_368_512,
        license="Apache-2.0 (of the repository; none stated for the weights)",
        trained_on=("magnatagatune",),
        paper="Spijkervet and Burgoyne 2021, Contrastive Learning of Musical Representations, ISMIR, "
        "https://arxiv.org/abs/2103.09410",
        benchmark_setup=BENCHMARKS[name],
        files=FILES[name],
    )
    return card, ClmrSettings(window=window)


ENCODER = EncoderFamily(
    ClmrSettings,
    network,
    {"clmr": _variant("clmr", 59_409, 30.0), "clmr-native": _variant("clmr-native", SHORTEST, None)},
    load_official=official,
)
