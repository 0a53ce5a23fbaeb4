"""MusiCNN and its VGG: small convolutional taggers, the baselines with filters shaped for music (Pons and Serra, 2019).

They hear 96 mel bands (16 kHz, windows of 32 ms every 16 ms, edges reflected) as log10(1 + 10000 x). The authors'
software keeps the bands in half precision, where the product overflows to infinity on loud bass; here it is single
precision, cut off at log10(65505), the largest that theirs can say.

A clip is cut into windows of 187 frames (3 s) without overlap; what remains at its end is dropped, as theirs does, and
the features are the mean over its windows. A clip shorter than one window is filled up with frames of silence, where
theirs fails (they trained with short clips repeated). The features of a MusiCNN are what JukeMIR and MARBLE probe: the
mean over time of the front's and of the three dense layers' channels, then their largest values. Those of a VGG are its
last layer before the tags. `tags` gives what the authors trained for.

Weights: four of the five are in the wheel musicnn 0.1.0 of the package index (`pip download --no-deps musicnn==0.1.0`);
`musicnn-msd-big`, the one that JukeMIR, MARBLE and the thesis probe, is only in the folder musicnn/MSD_musicnn_big of
github.com/jordipons/musicnn. ISC licence, code and weights.

Letters: B batch, T samples, N windows, F frames, M mel bands, L layers counted with row 0, D width, G tags.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from carrara.encoders._base import Card, Encoder, EncoderFamily
from carrara.encoders._musicnn.files import FOLDERS, official_tensors
from carrara.encoders._musicnn.network import BANDS, NETWORKS, WINDOW, MusicnnSettings, initialise
from carrara.formats.weights import load_strictly
from carrara.nn.init import draw_weights
from carrara.nn.spectral.framing import preset
from carrara.nn.spectral.mel import Bands, MelSpectrogram

VARIANTS = {
    "musicnn-mtt": "MusiCNN taught MagnaTagATune's 50 tags, 0.8M, 16 kHz, one answer a clip, 1506 numbers",
    "musicnn-msd": "MusiCNN taught the Million Song Dataset's 50 tags, 0.8M, 16 kHz, 1506 numbers",
    "musicnn-msd-big": "MusiCNN made wide, taught the same tags, 8M, 4194 numbers: the one of JukeMIR and MARBLE",
    "musicnn-mtt-vgg": "The musicnn library's VGG taught MagnaTagATune's tags, 0.6M, 16 kHz, 256 numbers",
    "musicnn-msd-vgg": "The musicnn library's VGG taught the Million Song Dataset's tags, 0.6M, 16 kHz, 256 numbers",
}
SAMPLE_RATE = 16_000
CEILING = math.log10(65505.0)
# Windows that go through the network at once: 0.2 GB of activations.
AT_ONCE = 8

HEARD = "windows of 187 frames (3 s), no overlap, the rest dropped; mean over windows; samples as they are"
BENCHMARKS = {
    "musicnn-msd-big": "JukeMIR, MARBLE: windows of 187 frames (3 s), no overlap, the rest dropped; mean and largest "
    "over frames, then mean over windows; samples as they are"
}
FILES = {
    "musicnn-mtt": {
        "https://files.pythonhosted.org/packages/1b/6f/38229e7d99c438e11114bbfa39c8c39185458c398011d0b6d7d7c7401617/"
        "musicnn-0.1.0-py3-none-any.whl": "f38a4890c648c1ddbb141c5d96d2b0a8cfcd36746002d896989f7b88beb65cfa"
    },
    "musicnn-msd": {
        "https://files.pythonhosted.org/packages/1b/6f/38229e7d99c438e11114bbfa39c8c39185458c398011d0b6d7d7c7401617/"
        "musicnn-0.1.0-py3-none-any.whl": "f38a4890c648c1ddbb141c5d96d2b0a8cfcd36746002d896989f7b88beb65cfa"
    },
    "musicnn-mtt-vgg": {
        "https://files.pythonhosted.org/packages/1b/6f/38229e7d99c438e11114bbfa39c8c39185458c398011d0b6d7d7c7401617/"
        "musicnn-0.1.0-py3-none-any.whl": "f38a4890c648c1ddbb141c5d96d2b0a8cfcd36746002d896989f7b88beb65cfa"
    },
    "musicnn-msd-vgg": {
        "https://files.pythonhosted.org/packages/1b/6f/38229e7d99c438e11114bbfa39c8c39185458c398011d0b6d7d7c7401617/"
        "musicnn-0.1.0-py3-none-any.whl": "f38a4890c648c1ddbb141c5d96d2b0a8cfcd36746002d896989f7b88beb65cfa"
    },
    "musicnn-msd-big": {
        "https://github.com/jordipons/musicnn/raw/516acb2a0ff5ef73f64547898e018e793152c506/musicnn/MSD_musicnn_big/"
        ".index": "d83b6453d94b455cdabfe627f4abe6007b6bfd5299f70d662be7e917786b99f6",
        "https://github.com/jordipons/musicnn/raw/516acb2a0ff5ef73f64547898e018e793152c506/musicnn/MSD_musicnn_big/"
        ".data-00000-of-00001": "",
    },
}

# In the order of the networks' outputs, spelled as the authors spell them.
TAG_NAMES = {
    "mtt": (
        "guitar, classical, slow, techno, strings, drums, electronic, rock, fast, piano, ambient, beat, violin, "
        "vocal, synth, female, indian, opera, male, singing, vocals, no vocals, harpsichord, loud, quiet, flute, "
        "woman, male vocal, no vocal, pop, soft, sitar, solo, man, classic, choir, voice, new age, dance, male "
        "voice, female vocal, beats, harp, cello, no voice, weird, country, metal, female voice, choral"
    ),
    "msd": (
        "rock, pop, alternative, indie, electronic, female vocalists, dance, 00s, alternative rock, jazz, "
        "beautiful, metal, chillout, male vocalists, classic rock, soul, indie rock, Mellow, electronica, 80s, "
        "folk, 90s, chill, instrumental, punk, oldies, blues, hard rock, ambient, acoustic, experimental, female "
        "vocalist, guitar, Hip-Hop, 70s, party, country, easy listening, sexy, catchy, funk, electro, heavy metal, "
        "Progressive rock, 60s, rnb, indie pop, sad, House, happy"
    ),
}


class MusicnnEncoder(Encoder):
    """A network with its front end, with random weights drawn from a generator of that seed (none on meta)."""

    settings: MusicnnSettings

    def __init__(self, settings: MusicnnSettings, card: Card, seed: int = 0) -> None:
        super().__init__()
        self.settings = settings
        place = torch.get_default_device()
        with torch.device("meta"):
            self.network = NETWORKS[settings.network](settings)
        parameters = sum(parameter.numel() for parameter in self.parameters())
        self.card = card.model_copy(update={"parameters": parameters})
        draw_weights(self.network, partial(initialise, self.network), seed)
        # Its constants are not among the weights that bring a network on meta to life.
        with torch.device("cpu"):
            self.mel = MelSpectrogram(SAMPLE_RATE, preset("musicnn"), Bands(BANDS), "log10")
        if place.type != "meta":
            self.mel.to(place)

    @property
    def tag_names(self) -> tuple[str, ...]:
        """What the numbers that `tags` returns stand for."""
        return tuple(TAG_NAMES[self.settings.taught].split(", "))

    def frames(self, samples: int) -> int:
        """Return 1: a whole clip gives one row of numbers."""
        return 1

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the mean features of each clip's windows, `[B, 1, 1, D]` (see `Encoder.forward`)."""
        return self._over_windows(self.network, samples_BT, lengths_B)[:, None, None]

    def tags(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the probability of each of `tag_names`, mean over each clip's windows, `[B, G]`."""

        def probabilities(mel_NFM: Tensor) -> Tensor:
            return self.network.logits(self.network(mel_NFM)).sigmoid()

        return self._over_windows(probabilities, samples_BT, lengths_B)

    def windows(self, samples_T: Tensor) -> Tensor:
        """Return the windows of one clip as the network hears them, `[N, F, M]`, at least one."""
        mel_FM = self.mel(samples_T[None])[0].clamp(max=CEILING)
        mel_FM = functional.pad(mel_FM, (0, 0, 0, max(WINDOW - len(mel_FM), 0)))
        return mel_FM[: len(mel_FM) // WINDOW * WINDOW].unflatten(0, (-1, WINDOW))

    def _over_windows(self, answer: Callable[[Tensor], Tensor], samples_BT: Tensor, lengths_B: Tensor | None) -> Tensor:
        lengths = [samples_BT.shape[-1]] * len(samples_BT) if lengths_B is None else lengths_B.tolist()
        clips = [self.windows(samples_T[:length]) for samples_T, length in zip(samples_BT.float(), lengths)]
        answers = torch.cat([answer(mel_NFM).float() for mel_NFM in torch.cat(clips).split(AT_ONCE)])
        return torch.stack([mine.mean(dim=0) for mine in answers.split([len(clip) for clip in clips])])


def official(name: str, path: Path) -> Mapping[str, Tensor]:
    """Return the weights of a variant by our names, read as their authors publish them.

    Args:
        name: the variant.
        path: the wheel musicnn 0.1.0; a folder that holds the checkpoint, or is the library's or its repository's; one
            of the checkpoint's files, or their common beginning.

    Raises:
        WeightsError: the checkpoint is not there, not whole or not this variant's.
    """
    card, settings = PUBLISHED[name]
    tensors, source = official_tensors(FOLDERS[name], settings.network, Path(path))
    with torch.device("meta"):
        encoder = network(settings, card, 0)
    # Batches of the training are counted by PyTorch alone.
    counts = {key: torch.tensor(0) for key in encoder.state_dict() if key.endswith("num_batches_tracked")}
    load_strictly(encoder, tensors | counts, source)
    return encoder.state_dict()


def network(settings: MusicnnSettings, card: Card, seed: int) -> MusicnnEncoder:
    """Return the encoder with random weights drawn from a generator of that seed (none under torch's meta device)."""
    return MusicnnEncoder(settings, card, seed)


def described(card: Card, settings: MusicnnSettings) -> Card:
    """Return the card of a network with other settings, of which nothing is published."""
    return card.model_copy(update={"dim": settings.dim, "files": {}, "benchmark_setup": ""})


def _variant(name: str, settings: MusicnnSettings, parameters: int) -> tuple[Card, MusicnnSettings]:
    card = Card(
        name=name,
        sample_rate=SAMPLE_RATE,
        frame_rate=None,
        num_layers=0,
        dim=settings.dim,
        parameters=parameters,
        license="ISC",
        commercial_use=True,
        trained_on=("magnatagatune",) if settings.taught == "mtt" else ("Million Song Dataset",),
        paper="Pons and Serra 2019, musicnn, https://arxiv.org/abs/1909.06654",
        benchmark_setup=BENCHMARKS.get(name, f"none known: {HEARD}"),
        files=FILES[name],
    )
    return card, settings


PUBLISHED = {
    "musicnn-mtt": _variant("musicnn-mtt", MusicnnSettings(), 787_159),
    "musicnn-msd": _variant("musicnn-msd", MusicnnSettings(taught="msd"), 787_159),
    "musicnn-msd-big": _variant("musicnn-msd-big", MusicnnSettings(taught="msd", middle=512, dense=500), 7_980_235),
    "musicnn-mtt-vgg": _variant("musicnn-mtt-vgg", MusicnnSettings(network="vgg"), 605_748),
    "musicnn-msd-vgg": _variant("musicnn-msd-vgg", MusicnnSettings(network="vgg", taught="msd"), 605_748),
}
ENCODER = EncoderFamily(
    settings=MusicnnSettings, build=network, variants=PUBLISHED, update_card=described, load_official=official
)
