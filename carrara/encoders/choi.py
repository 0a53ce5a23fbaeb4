"""Choi et al.'s tagger as a feature extractor: five convolutions over the mel spectrogram of a clip's first 29 s.

[choi2017], trained on tags of the Million Song Dataset; the baseline CHOI of JukeMIR [castellon2021]. 348,000 samples
at 12 kHz (a shorter clip is repeated), 96 mel bands every 256 samples, decibels from 0 at the clip's maximum to −80;
then five times 3×3 convolution, normalization, ELU and max pooling. The mean over each of the first four maps and the
single value of the fifth are concatenated: 5 × 32 = 160 numbers [notes/encoders §2.5].

The published network always normalizes with the statistics of the present batch and takes decibels against that batch's
maximum: no running statistics were kept, so a clip's features depend on the clips beside it. Here a clip is a batch by
itself, as in the authors' `easy_feature_extraction.py`. `batch_stats` reproduces JukeMIR's batches of 256 clips,
shuffled with seed 0: then features are comparable only within their batch, so do not store them.

The authors' five files are one network cut after each block (their weights are equal), so only the fifth is read.
Theano's convolutions flip kernels: the weights are rotated by 180°, and the spectrogram's frames, whose kernels were
flipped too, start one sample earlier than they seem to.

Letters: B batch, T samples, F frames, M mel bands, C channels, D dimension.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from carrara.core.errors import UsageError, WeightsError
from carrara.core.settings import Settings
from carrara.encoders._base import Card, Encoder, EncoderFamily
from carrara.formats.hdf5 import read_hdf5
from carrara.formats.magic import read_magic
from carrara.nn.init import build_constants, init_weights
from carrara.nn.spectral.framing import framing_preset, no_autocast
from carrara.nn.spectral.mel import MelBands, MelSpectrogram

VARIANTS = {
    "choi": "CHOI: five convolutions over mel, trained on the Million Song Dataset's tags, 0.04M, 12 kHz, 160 numbers "
    "a clip"
}
_SAMPLE_RATE = 12_000
CLIP_SAMPLES = 348_000
_WINDOW, _HOP, _NUM_BANDS, _TOP_DB = 512, 256, 96, 80.0
_CHANNELS = 32
_POOLS = ((2, 4), (3, 4), (2, 5), (2, 4), (4, 4))  # mel bands × frames
_EPSILON = 1e-3  # Keras 1's
_BATCH_SIZE = 8  # clips: 17 MB for each map of a clip's first block
_FILE = "weights_layer4_theano.hdf5"
_SAME_FILE = "weights_theano.hdf5"
FILES = {
    "choi": {
        "https://github.com/keunwoochoi/transfer_learning_music/raw/e1f83c389ff32ce48551f916414ae869cbe7f6e6/"
        "weights_transfer/weights_layer4_theano.hdf5": (
            "caf89f811415691fbb245be7eef394b9cebd787d7e3f78e29695972141cf2a08"
        )
    }
}


class ChoiSettings(Settings):
    """Settings of CHOI.

    Attributes:
        batch_stats: whether decibels and normalization refer to the whole batch, as in JukeMIR, or to each clip.
    """

    batch_stats: bool = False


class _Choi(Encoder):
    """The network, with random weights of that seed (none under torch's meta device)."""

    settings: ChoiSettings

    def __init__(self, settings: ChoiSettings, card: Card, seed: int = 0) -> None:
        super().__init__()
        self.settings, self.card = settings, card
        framing = framing_preset("librosa", window=_WINDOW, hop=_HOP)
        self.mel = build_constants(lambda: MelSpectrogram(_SAMPLE_RATE, framing, MelBands(_NUM_BANDS), "db"))
        norm = nn.BatchNorm2d if settings.batch_stats else nn.InstanceNorm2d
        with torch.device("meta"):
            self.blocks = nn.ModuleList(
                nn.Sequential(
                    OrderedDict(
                        convolution=nn.Conv2d(_CHANNELS if index else 1, _CHANNELS, 3, padding=1),
                        norm=norm(_CHANNELS, _EPSILON, affine=True, track_running_stats=False),
                        elu=nn.ELU(),
                        pool=nn.MaxPool2d(pool),
                    )
                )
                for index, pool in enumerate(_POOLS)
            )
        init_weights(self.blocks, self._initialize, seed)

    def num_frames(self, samples: int) -> int:
        """Return 1: a whole clip has one vector."""
        return 1

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the features `[B, 1, 1, D]` of each clip's first 29 s, of each clip by itself unless `batch_stats`.

        Raises:
            UsageError: a clip has no samples.
        """
        if lengths_B is None:
            lengths_B = torch.full((len(samples_BT),), samples_BT.shape[-1])
        if not lengths_B.all():
            raise UsageError("a clip of no samples has no features; leave empty clips out")
        lengths_B = lengths_B.to(samples_BT.device)
        size = len(samples_BT) if self.settings.batch_stats else _BATCH_SIZE
        features = []
        for batch_BT, batch_lengths_B in zip(samples_BT.float().split(size), lengths_B.split(size)):
            # A clip is repeated from its start until it is long enough.
            index_BT = torch.arange(CLIP_SAMPLES, device=samples_BT.device) % batch_lengths_B[:, None]
            features.append(self._encode(batch_BT.gather(1, index_BT)))
        return torch.cat(features)[:, None, None]

    def forward_traceable(self, samples_BT: Tensor) -> Tensor:
        """Return `forward`'s features of clips of one length, by operations that a tracer follows.

        Raises:
            UsageError: the settings normalize over a batch.
        """
        if self.settings.batch_stats:
            raise UsageError(f"{self.card.name}: its clips depend on their batch; use batch_stats=false")
        index_T = torch.arange(CLIP_SAMPLES, device=samples_BT.device)
        index_T = index_T - index_T // samples_BT.shape[1] * samples_BT.shape[1]
        return self._encode(samples_BT[:, index_T])[:, None, None]

    def _encode(self, samples_BT: Tensor) -> Tensor:
        """Return the means of the maps, `[B, D]`, of clips of 29 s."""
        maps_BCMF = self._decibels(samples_BT).mT[:, None]
        means = []
        for block in self.blocks:
            maps_BCMF = block(maps_BCMF)
            means.append(maps_BCMF.mean(dim=(-2, -1)))
        return torch.cat(means, dim=-1)

    def _decibels(self, samples_BT: Tensor) -> Tensor:
        """Return the mel spectrogram in decibels below the maximum, `[B, F, M]`."""
        with no_autocast(samples_BT):
            # The published frames start at 256 i − 257.
            level_BFM = self.mel(nn.functional.pad(samples_BT, (1, 0)))
            maximum = level_BFM.amax() if self.settings.batch_stats else level_BFM.amax(dim=(-2, -1), keepdim=True)
            return (level_BFM - maximum).clamp(min=-_TOP_DB)

    @torch.no_grad()
    def _initialize(self, generator: torch.Generator) -> None:
        for module in self.blocks.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_normal_(module.weight, generator=generator)
                module.bias.zero_()
            elif isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d):
                module.reset_parameters()


def _load_official(name: str, path: Path) -> Mapping[str, Tensor]:
    """Return the published weights by the network's own names.

    Args:
        name: the variant.
        path: weights_layer4_theano.hdf5, or the folder weights_transfer of keunwoochoi/transfer_learning_music.

    Raises:
        UsageError: h5py is not installed.
        WeightsError: no such file, or one that is damaged or of a cut or another network.
    """
    path = Path(path)
    if path.is_dir():
        path = next((path / file for file in (_FILE, _SAME_FILE) if (path / file).is_file()), path / _FILE)
    read_magic(path)
    arrays = read_hdf5(path, str(path))
    if "ConvBNEluDr/convolution2d_1_W" not in arrays:
        raise WeightsError(f"{path}: holds no network of CHOI for Keras 1; give {_FILE}")
    if "ConvBNEluDr/convolution2d_5_W" not in arrays:
        raise WeightsError(f"{path}: is the network cut after an earlier block; give {_FILE}, which holds all five")
    parts = {
        "convolution.weight": "convolution2d_{}_W",
        "convolution.bias": "convolution2d_{}_b",
        "norm.weight": "batchnormalization_{}_gamma",
        "norm.bias": "batchnormalization_{}_beta",
    }
    tensors = {}
    for block in range(len(_POOLS)):
        for our_name, their_name in parts.items():
            tensor = arrays.get("ConvBNEluDr/" + their_name.format(block + 1))
            if tensor is not None:
                tensors[f"blocks.{block}.{our_name}"] = tensor.flip(-2, -1) if tensor.dim() == 4 else tensor
    return tensors


_CARD = Card(
    name="choi",
    sample_rate=_SAMPLE_RATE,
    frame_rate=None,
    num_layers=0,
    dim=len(_POOLS) * _CHANNELS,
    parameters=37_632,
    license="none stated; not to be passed on",
    commercial_use=None,
    trained_on=("Million Song Dataset",),
    pretraining_task="tagging of music",
    input="mel in decibels",
    network="5 convolutions",
    context_seconds=29.0,
    stride_seconds=29.0,
    paper="Choi et al. 2017, Transfer learning for music classification and regression tasks, ISMIR, "
    "https://arxiv.org/abs/1703.09179",
    benchmark_setup="JukeMIR: the first 29 s as one window, shorter clips repeated; mean of each map; decibels and "
    "maps normalised over batches of 256 clips (`batch_stats`; by default here over each clip)",
    files=FILES["choi"],
)
ENCODER = EncoderFamily(ChoiSettings, _Choi, {"choi": (_CARD, ChoiSettings())}, load_official=_load_official)
