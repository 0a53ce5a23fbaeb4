"""EfficientNet-Discogs: EfficientNet-B0 on log-mel patches, trained on 400 music styles; MAEST's own baseline.

[alonso2022]; the style classifier of Essentia's models [notes/encoders §2.6]. 16 kHz, 96 mel bands every 16 ms in
Essentia's framing (symmetric Hann window, zeros around the clip, first frame on its first sample), bands of equal area,
log10(1 + 10000 x), and no normalization. Another mel spectrogram gives features that look plausible and are wrong.

A clip is split into patches of 128 frames (2.05 s) every 62 frames (0.99 s); the remainder at its end, less than a
second, is dropped, as by default in Essentia; a clip shorter than a patch is repeated until it fills one. The features
are the 1280 numbers before the classifier, mean over the patches; `predict_tags` gives the probabilities of the 400
styles. The weights hold no names of styles; a `labels.json` beside them is read: Essentia's
genre_discogs400-discogs-effnet-1.json by that name, or any list in the order of the network.

Weights: discogs-effnet-bsdynamic-1.onnx, read without onnxruntime. Its page says CC BY-NC-SA 4.0, some read a licence
file beside it as NC-ND: neither allows commercial use, so bring your own copy. Names in the file mean nothing;
convolutions are matched by their order, which the chain of the network fixes, and every shape, stride, norm and padding
is compared. The file also decides which of the two padding rules of the strides applies.

Letters: B batch, T samples, N patches, F frames, M mel bands, D dimension, S styles.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn

from carrara.core.settings import Settings
from carrara.encoders._base import Card, Encoder, EncoderFamily
from carrara.encoders._effnet.convert import ONNX_FILE, convert_graph
from carrara.encoders._maest.labels import add_labels_from_file
from carrara.encoders._windows import mean_over_windows, split_clips
from carrara.formats.onnx import read_onnx
from carrara.nn.conv.efficientnet import EfficientNet
from carrara.nn.init import build_constants, init_weights
from carrara.nn.spectral.framing import framing_preset
from carrara.nn.spectral.mel import MelBands, MelSpectrogram

VARIANTS = {
    "effnet-discogs": "EfficientNet-B0 trained on 400 Discogs styles, 4.5M, 16 kHz, one vector a clip, 1280 numbers",
}
FILES = {
    "effnet-discogs": {
        "https://essentia.upf.edu/models/feature-extractors/discogs-effnet/discogs-effnet-bsdynamic-1.onnx": ""
    }
}
_SAMPLE_RATE, _NUM_BANDS = 16_000, 96
PATCH_FRAMES = 128
_PATCH_HOP = 62
BATCH_SIZE = 16  # patches: of 1 to 64 the fastest on a CPU, with 0.1 GB of activations


class EffnetSettings(Settings):
    """The network's sizes and labels; the defaults are the published ones.

    Attributes:
        width_multiplier: factor on the channels of every part; 1 is B0.
        classes: number of styles.
        labels: names of the styles; empty where they are unknown.
    """

    width_multiplier: float = Field(default=1.0, gt=0)
    classes: int = Field(default=400, ge=1)
    labels: tuple[str, ...] = ()


class EffnetDiscogs(Encoder):
    """The network with its front end, with random weights of that seed (none under torch's meta device)."""

    settings: EffnetSettings

    def __init__(self, settings: EffnetSettings, card: Card, seed: int = 0) -> None:
        super().__init__()
        self.settings = settings
        with torch.device("meta"):
            self.network = EfficientNet(settings.width_multiplier)
            self.classifier = nn.Linear(self.network.channels, settings.classes)
        parameters = sum(parameter.numel() for parameter in self.parameters())
        self.card = card.model_copy(update={"parameters": parameters, "dim": self.network.channels})
        init_weights(self, self._initialize, seed)
        self.mel = build_constants(
            lambda: MelSpectrogram(_SAMPLE_RATE, framing_preset("essentia"), MelBands(_NUM_BANDS), "log10")
        )

    @torch.no_grad()
    def _initialize(self, generator: torch.Generator) -> None:
        self.network.init_weights(generator)
        bound = self.settings.classes**-0.5
        self.classifier.weight.uniform_(-bound, bound, generator=generator)
        nn.init.zeros_(self.classifier.bias)

    def num_frames(self, samples: int) -> int:
        """Return 1: a whole clip has one vector."""
        return 1

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the mean features of each clip's patches, `[B, 1, 1, D]` (see `Encoder.forward`)."""
        patches = [self.patches(samples_T) for samples_T in split_clips(samples_BT, lengths_B)]
        return mean_over_windows(self.window_features, patches, BATCH_SIZE)[:, None, None]

    def window_features(self, patches_NFM: Tensor) -> Tensor:
        """Return the features of patches, `[N, D]`."""
        return self.network(patches_NFM)[1].float()

    @property
    def min_samples(self) -> int:
        """Samples from which a clip has a whole patch."""
        return PATCH_FRAMES * self.mel.spectrum.framing.hop

    def window_batch(self, samples_BT: Tensor) -> Tensor:
        """Return the patches of clips of one length, at least `min_samples`, `[B, N, F, M]`."""
        mel_BFM = self.mel(samples_BT)
        first_N = torch.arange((mel_BFM.shape[1] - PATCH_FRAMES) // _PATCH_HOP + 1) * _PATCH_HOP
        return mel_BFM[:, first_N[:, None] + torch.arange(PATCH_FRAMES)]

    @property
    def tag_names(self) -> tuple[str, ...]:
        """The labels, or the styles' numbers where they are unknown."""
        return self.settings.labels or tuple(f"style {index}" for index in range(self.settings.classes))

    def predict_tags(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the probability of each style, mean over each clip's patches, `[B, S]`; arguments as for `forward`."""
        patches = [self.patches(samples_T) for samples_T in split_clips(samples_BT, lengths_B)]
        network = lambda patches_NFM: self.classifier(self.network(patches_NFM)[1]).sigmoid().float()  # noqa: E731
        return mean_over_windows(network, patches, BATCH_SIZE)

    def patches(self, samples_T: Tensor) -> Tensor:
        """Return the patches of one clip, `[N, F, M]`, at least one.

        Raises:
            UsageError: the clip is empty.
        """
        mel_FM = self.mel(samples_T[None])[0]
        if len(mel_FM) < PATCH_FRAMES:
            mel_FM = mel_FM.repeat(-(-PATCH_FRAMES // len(mel_FM)), 1)[:PATCH_FRAMES]
        return mel_FM.unfold(0, PATCH_FRAMES, _PATCH_HOP).mT


def _load_official(name: str, path: Path) -> Mapping[str, Tensor]:
    """Return the weights by our names, read from the ONNX file as its authors publish it.

    Args:
        name: the variant.
        path: discogs-effnet-bsdynamic-1.onnx, or the folder that holds it.

    Raises:
        WeightsError: no such file, or one that is damaged or of another network.
    """
    path = Path(path) / ONNX_FILE if Path(path).is_dir() else Path(path)
    card, settings = ENCODER.variants[name]
    with torch.device("meta"):
        encoder = EffnetDiscogs(settings, card)  # type: ignore[arg-type]
    return convert_graph(read_onnx(path), encoder, str(path))


def _update_card(card: Card, settings: EffnetSettings) -> Card:
    """Return the card of a network with other settings, of which nothing is published."""
    return card.model_copy(update={"files": {}, "trained_on": (), "benchmark_setup": ""})


_CARD = Card(
    name="effnet-discogs",
    sample_rate=_SAMPLE_RATE,
    frame_rate=None,
    num_layers=0,
    dim=1280,
    parameters=4_519_372,
    license="CC-BY-NC-SA-4.0",
    commercial_use=False,
    trained_on=("Discogs (in-house)",),
    pretraining_task="tagging of music styles",
    input="log-mel",
    network="EfficientNet-B0",
    context_seconds=2.05,
    stride_seconds=0.99,
    paper="Alonso-Jiménez, Serra, Bogdanov 2022, Music Representation Learning Based on Editorial Metadata from "
    "Discogs, ISMIR",
    benchmark_setup="MAEST's authors: windows of 128 frames (2.05 s) every 62 (0.99 s); mean over windows; samples as "
    "they are",
    files=FILES["effnet-discogs"],
)
ENCODER = EncoderFamily(
    settings=EffnetSettings,
    build=EffnetDiscogs,
    variants={"effnet-discogs": (_CARD, EffnetSettings())},
    update_card=_update_card,
    load_official=_load_official,
    settings_from_files=add_labels_from_file,
)
