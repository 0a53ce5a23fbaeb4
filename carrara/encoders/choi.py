"""Choi et al.'s tagger as a feature extractor: five convolutions over the mel spectrogram of a clip's first 29 s.

Choi, Fazekas, Sandler, Cho 2017, "Transfer learning for music classification and regression tasks" (ISMIR, arXiv
1703.09179), trained on tags of the Million Song Dataset; the baseline CHOI of JukeMIR. 348,000 samples at 12 kHz (a
shorter clip is repeated), 96 mel bands every 256 samples, decibels from 0 at the clip's loudest to −80; then five times
3×3 convolution, normalisation, ELU and max pooling. The mean over each of the first four maps and the single value of
the fifth stand side by side: 5 × 32 = 160 numbers.

The published network normalises with the statistics of whatever batch it is given and takes decibels against that
batch's loudest value, at all times: no running statistics were kept, so that a clip's features depend on the clips
beside it. Here a clip is a batch by itself, as in the authors' `easy_feature_extraction.py`. `batch_stats` does what
JukeMIR did in batches of 256 clips, shuffled with seed 0: then a row means something only beside its batch's others, so
do not store it.

The authors' five files are one network cut after each block (their weights are equal), so only the fifth is read.
Theano's convolutions turn kernels around: the weights are turned by 180°, and the spectrogram's frames, whose kernels
were turned around too, start one sample earlier than they seem to.

Letters: B batch, T samples, F frames, M mel bands, C channels, H heard samples, D width.
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
from carrara.nn.init import init_weights
from carrara.nn.spectral.framing import no_autocast, framing_preset
from carrara.nn.spectral.mel import MelBands, MelSpectrogram

VARIANTS = {
    "choi": "CHOI: five convolutions over mel, taught Million Song Dataset's tags, 0.04M, 12 kHz, 160 numbers a clip"
}
SAMPLE_RATE, CLIP_SAMPLES = 12_000, 348_000
WINDOW, HOP, MELS, REACH = 512, 256, 96, 80.0
CHANNELS = 32
POOLS = ((2, 4), (3, 4), (2, 5), (2, 4), (4, 4))  # mel bands × frames
EPSILON = 1e-3  # Keras 1's
BLOCK = 8  # clips at once: 17 MB for each map of a clip's first block
FILE = "weights_layer4_theano.hdf5"
SAME_FILE = "weights_theano.hdf5"
FILES = {
    "choi": {
        "https://github.com/keunwoochoi/transfer_learning_music/raw/e1f83c389ff32ce48551f916414ae869cbe7f6e6/"
        "weights_transfer/weights_layer4_theano.hdf5": (
            "caf89f811415691fbb245be7eef394b9cebd787d7e3f78e29695972141cf2a08"
        )
    }
}


class ChoiSettings(Settings):
    """What can be set.

    Attributes:
        batch_stats: whether decibels and normalisation refer to the whole batch, as in JukeMIR, or to each clip.
    """

    batch_stats: bool = False


class Choi(Encoder):
    """The network, with random weights drawn from a generator of that seed (none under torch's meta device)."""

    settings: ChoiSettings

    def __init__(self, settings: ChoiSettings, card: Card, seed: int = 0) -> None:
        super().__init__()
        self.settings, self.card = settings, card
        place = torch.get_default_device()
        # What is computed and not loaded must exist even where the weights do not yet.
        with torch.device("cpu" if place.type == "meta" else place):
            framing = framing_preset("librosa", window=WINDOW, hop=HOP)
            self.mel = MelSpectrogram(SAMPLE_RATE, framing, MelBands(MELS), "db")
        norm = nn.BatchNorm2d if settings.batch_stats else nn.InstanceNorm2d
        with torch.device("meta"):
            self.blocks = nn.ModuleList(
                nn.Sequential(
                    OrderedDict(
                        convolution=nn.Conv2d(CHANNELS if block else 1, CHANNELS, 3, padding=1),
                        norm=norm(CHANNELS, EPSILON, affine=True, track_running_stats=False),
                        elu=nn.ELU(),
                        pool=nn.MaxPool2d(pool),
                    )
                )
                for block, pool in enumerate(POOLS)
            )
        init_weights(self.blocks, self._initialise, seed)

    def frames(self, samples: int) -> int:
        """Return 1: a whole clip gives one row of numbers."""
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
        count = len(samples_BT) if self.settings.batch_stats else BLOCK
        batches = zip(samples_BT.float().split(count), lengths_B.split(count))
        return torch.cat([self._features(heard(*batch)) for batch in batches])[:, None, None]

    def _features(self, samples_BH: Tensor) -> Tensor:
        maps_BCMF = self._levels(samples_BH).mT[:, None]
        features = []
        for block in self.blocks:
            maps_BCMF = block(maps_BCMF)
            features.append(maps_BCMF.mean(dim=(-2, -1)))
        return torch.cat(features, dim=-1)

    def _levels(self, samples_BH: Tensor) -> Tensor:
        """Return the mel spectrogram in decibels below the loudest, `[B, F, M]`."""
        with no_autocast(samples_BH):
            # The published frames start at 256 i − 257.
            levels_BFM = self.mel(nn.functional.pad(samples_BH, (1, 0)))
            loudest = levels_BFM.amax() if self.settings.batch_stats else levels_BFM.amax(dim=(-2, -1), keepdim=True)
            return (levels_BFM - loudest).clamp(min=-REACH)

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        for module in self.blocks.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_normal_(module.weight, generator=generator)
                module.bias.zero_()
            elif isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d):
                module.reset_parameters()


def heard(samples_BT: Tensor, lengths_B: Tensor) -> Tensor:
    """Return what is heard of each clip, `[B, H]`: its first 29 s, repeated from its start where it is shorter."""
    place_BH = torch.arange(CLIP_SAMPLES, device=samples_BT.device) % lengths_B[:, None]
    return samples_BT.gather(1, place_BH)


def network(settings: ChoiSettings, card: Card, seed: int) -> Choi:
    """Return the encoder with random weights."""
    return Choi(settings, card, seed)


def official(name: str, path: Path) -> Mapping[str, Tensor]:
    """Return the published weights by the network's own names.

    Args:
        name: the variant.
        path: weights_layer4_theano.hdf5, or the folder weights_transfer of keunwoochoi/transfer_learning_music.

    Raises:
        UsageError: h5py is not installed.
        WeightsError: no such file, not whole, or the file of a cut or another network.
    """
    path = Path(path)
    if path.is_dir():
        path = next((path / file for file in (FILE, SAME_FILE) if (path / file).is_file()), path / FILE)
    read_magic(path)
    arrays = read_hdf5(path, str(path))
    if "ConvBNEluDr/convolution2d_1_W" not in arrays:
        raise WeightsError(f"{path}: holds no network of CHOI for Keras 1; give {FILE}")
    if "ConvBNEluDr/convolution2d_5_W" not in arrays:
        raise WeightsError(f"{path}: is the network cut after an earlier block; give {FILE}, which holds all five")
    tensors: dict[str, Tensor] = {}
    for block in range(len(POOLS)):
        convolution = f"ConvBNEluDr/convolution2d_{block + 1}_"
        norm = f"ConvBNEluDr/batchnormalization_{block + 1}_"
        theirs = (convolution + "W", convolution + "b", norm + "gamma", norm + "beta")
        ours = ("convolution.weight", "convolution.bias", "norm.weight", "norm.bias")
        tensors |= {f"blocks.{block}.{our}": arrays[their] for our, their in zip(ours, theirs) if their in arrays}
    return {key: tensor.flip(-2, -1) if tensor.dim() == 4 else tensor for key, tensor in tensors.items()}


CARD = Card(
    name="choi",
    sample_rate=SAMPLE_RATE,
    frame_rate=None,
    num_layers=0,
    dim=len(POOLS) * CHANNELS,
    parameters=37_632,
    license="none stated; not to be passed on",
    commercial_use=None,
    trained_on=("Million Song Dataset",),
    paper="Choi et al. 2017, Transfer learning for music classification and regression tasks, ISMIR, "
    "https://arxiv.org/abs/1703.09179",
    benchmark_setup="JukeMIR: the first 29 s as one window, shorter clips repeated; mean of each map; decibels and maps "
    "normalised over batches of 256 clips (`batch_stats`; by default here over each clip)",
    files=FILES["choi"],
)
ENCODER = EncoderFamily(ChoiSettings, network, {"choi": (CARD, ChoiSettings())}, load_official=official)
