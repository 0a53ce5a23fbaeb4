"""EfficientNet-Discogs: EfficientNet-B0 on log-mel patches, taught 400 music styles by Discogs; MAEST's own baseline.

Alonso-Jiménez, Serra, Bogdanov 2022, "Music Representation Learning Based on Editorial Metadata from Discogs" (ISMIR);
the style classifier of Essentia's models. 16 kHz, 96 mel bands every 16 ms in Essentia's framing (symmetric Hann
window, zeros around the clip, first frame on its first sample), bands of equal area, log10(1 + 10000 x), and no
normalisation. Another mel spectrogram gives numbers that look healthy and mean nothing.

A clip is cut into patches of 128 frames (2.05 s) every 62 frames (0.99 s); what remains at its end, less than a second,
is dropped, as by default in Essentia; a clip shorter than a patch is repeated until it fills one. The features are the
1280 numbers before the classifier, mean over the patches; `tags` gives the probabilities of the 400 styles. The weights
hold no names of styles; a `labels.json` beside them is read: Essentia's genre_discogs400-discogs-effnet-1.json by that
name, or any list in the order of the network.

Weights: only discogs-effnet-bsdynamic-1.onnx is read, without onnxruntime. Its page says CC BY-NC-SA 4.0, a licence
file beside it is read as NC-ND by some: neither allows commercial use, so bring your own copy. Names in the file mean
nothing; convolutions are told by their order, which the chain of the network fixes, and every shape, stride, norm and
row of zeros is compared. Which of the two rules for the zeros of the strides the file follows is read from it.

Letters: B batch, T samples, N patches, F frames, M mel bands, L layers counted with row 0, D width, S styles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn

from carrara.core.settings import Settings
from carrara.encoders._base import Card, Encoder, EncoderFamily
from carrara.encoders._effnet.file import FILE, weights_of
from carrara.encoders._maest.labels import LABELS, read_labels
from carrara.formats.onnx import read_onnx
from carrara.nn.conv.efficientnet import EfficientNet
from carrara.nn.init import draw_weights
from carrara.nn.spectral.framing import preset
from carrara.nn.spectral.mel import Bands, MelSpectrogram

VARIANTS = {
    "effnet-discogs": "EfficientNet-B0 taught 400 Discogs styles, 4.5M, 16 kHz, one answer a clip, 1280 numbers",
}
FILES = {
    "effnet-discogs": {
        "https://essentia.upf.edu/models/feature-extractors/discogs-effnet/discogs-effnet-bsdynamic-1.onnx": ""
    }
}
SAMPLE_RATE, BANDS = 16_000, 96
PATCH, HOP = 128, 62
# Patches that go through the network at once: of 1 to 64 the fastest on a CPU, with 0.1 GB of activations.
AT_ONCE = 16


class EffnetSettings(Settings):
    """What the network is made of; the defaults are the published one's.

    Attributes:
        width: factor on the channels of every part; 1 is B0.
        styles: number of styles that it tells.
        labels: their names; empty where nobody told them.
    """

    width: float = Field(default=1.0, gt=0)
    styles: int = Field(default=400, ge=1)
    labels: tuple[str, ...] = ()


class EffnetDiscogs(Encoder):
    """The network with its front end, with random weights drawn from a generator of that seed (none on meta)."""

    settings: EffnetSettings

    def __init__(self, settings: EffnetSettings, card: Card, seed: int = 0) -> None:
        super().__init__()
        self.settings = settings
        place = torch.get_default_device()
        with torch.device("meta"):
            self.network = EfficientNet(settings.width)
            self.classifier = nn.Linear(self.network.channels, settings.styles)
        parameters = sum(parameter.numel() for parameter in self.parameters())
        self.card = card.model_copy(update={"parameters": parameters, "dim": self.network.channels})
        draw_weights(self, self._initialise, seed)
        # The front end's constants are not among the weights that bring a network on meta to life.
        with torch.device("cpu"):
            self.mel = MelSpectrogram(SAMPLE_RATE, preset("essentia"), Bands(BANDS), "log10")
        if place.type != "meta":
            self.to(place)

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        self.network.initialise(generator)
        bound = self.settings.styles**-0.5
        self.classifier.weight.uniform_(-bound, bound, generator=generator)
        nn.init.zeros_(self.classifier.bias)

    def frames(self, samples: int) -> int:
        """Return 1: a whole clip gives one row of numbers."""
        return 1

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the mean features of each clip's patches, `[B, 1, 1, D]` (see `Encoder.forward`)."""
        return self._over_patches(lambda features_ND: features_ND, samples_BT, lengths_B)[:, None, None]

    @property
    def tag_names(self) -> tuple[str, ...]:
        """The labels, or the styles' numbers where nobody told them."""
        return self.settings.labels or tuple(f"style {place}" for place in range(self.settings.styles))

    def tags(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the probability of each style, mean over each clip's patches, `[B, S]`; arguments as of `forward`."""
        return self._over_patches(lambda features_ND: self.classifier(features_ND).sigmoid(), samples_BT, lengths_B)

    def patches(self, samples_T: Tensor) -> Tensor:
        """Return the patches of one clip as the network hears them, `[N, F, M]`, at least one.

        Raises:
            UsageError: the clip is empty.
        """
        mel_FM = self.mel(samples_T[None])[0]
        mel_FM = mel_FM.repeat(-(-PATCH // len(mel_FM)), 1)[:PATCH] if len(mel_FM) < PATCH else mel_FM
        return mel_FM.unfold(0, PATCH, HOP).mT

    def _over_patches(self, answer: Callable[[Tensor], Tensor], samples_BT: Tensor, lengths_B: Tensor | None) -> Tensor:
        lengths = [samples_BT.shape[-1]] * len(samples_BT) if lengths_B is None else lengths_B.tolist()
        clips = [self.patches(samples_T[:length]) for samples_T, length in zip(samples_BT.float(), lengths)]
        blocks = torch.cat(clips).split(AT_ONCE)
        answers = torch.cat([answer(self.network(patches_NFM)[1]).float() for patches_NFM in blocks])
        return torch.stack([mine.mean(dim=0) for mine in answers.split([len(clip) for clip in clips])])


def official(name: str, path: Path) -> Mapping[str, Tensor]:
    """Return the weights by our names, read from the ONNX file as its authors publish it.

    Args:
        name: the variant.
        path: discogs-effnet-bsdynamic-1.onnx, or the folder that holds it.

    Raises:
        WeightsError: no such file, not whole, or the file of another network.
    """
    path = Path(path) / FILE if Path(path).is_dir() else Path(path)
    card, settings = PUBLISHED[name]
    with torch.device("meta"):
        encoder = network(settings, card, 0)
    return weights_of(read_onnx(path), encoder, str(path))


def told(name: str, settings: EffnetSettings, path: Path) -> EffnetSettings:
    """Return the settings with the names of the styles that stand beside the file, where there are some.

    Raises:
        UsageError: they are not one a style.
    """
    beside = (path if path.is_dir() else path.parent) / LABELS
    if not beside.is_file():
        return settings
    return settings.model_copy(update={"labels": read_labels(beside, settings.styles)})


def network(settings: EffnetSettings, card: Card, seed: int) -> EffnetDiscogs:
    """Return the encoder with random weights drawn from a generator of that seed (none under torch's meta device)."""
    return EffnetDiscogs(settings, card, seed)


def described(card: Card, settings: EffnetSettings) -> Card:
    """Return the card of a network with other settings, of which nothing is published."""
    return card.model_copy(update={"files": {}, "trained_on": (), "benchmark_setup": ""})


CARD = Card(
    name="effnet-discogs",
    sample_rate=SAMPLE_RATE,
    frame_rate=None,
    num_layers=0,
    dim=1280,
    parameters=4_519_372,
    license="CC-BY-NC-SA-4.0",
    commercial_use=False,
    trained_on=("Discogs (in-house)",),
    paper="Alonso-Jiménez, Serra, Bogdanov 2022, Music Representation Learning Based on Editorial Metadata from "
    "Discogs, ISMIR",
    benchmark_setup="MAEST's authors: windows of 128 frames (2.05 s) every 62 (0.99 s); mean over windows; samples as they "
    "are",
    files=FILES["effnet-discogs"],
)
PUBLISHED = {"effnet-discogs": (CARD, EffnetSettings())}
ENCODER = EncoderFamily(
    settings=EffnetSettings,
    build=network,
    variants=PUBLISHED,
    update_card=described,
    load_official=official,
    settings_from_files=told,
)
