"""MusiCNN and its VGG: small convolutional taggers, the baselines with filters shaped for music [pons2019].

The input is 96 mel bands (16 kHz, windows of 32 ms every 16 ms, edges reflected) as log10(1 + 10000 x). The authors'
software keeps the bands in half precision, where the product overflows to infinity on loud bass; here it is single
precision, limited to log10(65505), the maximum of theirs.

A clip is split into windows of 187 frames (3 s) without overlap; the remainder at its end is dropped, as theirs does,
and the features are the mean over its windows. A clip shorter than one window is padded with frames of silence, where
theirs fails (they trained with short clips repeated). The features of a MusiCNN are those that JukeMIR and MARBLE
probe: the mean over time of the channels of the front and of the three dense layers, then their maxima. Those of a VGG
are its last layer before the tags. `predict_tags` gives the tags on which the authors trained.

Weights: four of the five are in the wheel musicnn 0.1.0 of the package index (`pip download --no-deps musicnn==0.1.0`);
`musicnn-msd-big`, which JukeMIR, MARBLE and [yuan2023thesis] probe, is only in the folder musicnn/MSD_musicnn_big of
github.com/jordipons/musicnn. ISC licence, code and weights.

Letters: B batch, T samples, N windows, F frames, M mel bands, D dimension, G tags.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from carrara.encoders._base import Card, Encoder, EncoderFamily
from carrara.encoders._musicnn.files import FOLDERS, read_musicnn_tensors
from carrara.encoders._musicnn.network import NETWORKS, NUM_BANDS, WINDOW_FRAMES, MusicnnSettings, init_musicnn_weights
from carrara.encoders._windows import mean_over_windows, split_clips
from carrara.formats.weights import load_state_dict_strict
from carrara.nn.init import build_constants, init_weights
from carrara.nn.spectral.framing import framing_preset
from carrara.nn.spectral.mel import MelBands, MelSpectrogram

VARIANTS = {
    "musicnn-mtt": "MusiCNN trained on MagnaTagATune's 50 tags, 0.8M, 16 kHz, one vector a clip, 1506 numbers",
    "musicnn-msd": "MusiCNN trained on the Million Song Dataset's 50 tags, 0.8M, 16 kHz, 1506 numbers",
    "musicnn-msd-big": "A wide MusiCNN trained on the same tags, 8M, 4194 numbers: the one of JukeMIR and MARBLE",
    "musicnn-mtt-vgg": "The musicnn library's VGG trained on MagnaTagATune's tags, 0.6M, 16 kHz, 256 numbers",
    "musicnn-msd-vgg": "The musicnn library's VGG trained on the Million Song Dataset's tags, 0.6M, 256 numbers",
}
_SAMPLE_RATE = 16_000
_CEILING = math.log10(65505.0)
BATCH_SIZE = 8  # windows: 0.2 GB of activations

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
_TAG_NAMES = {
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


class _MusicnnEncoder(Encoder):
    """A network with its front end, with random weights of that seed (none under torch's meta device)."""

    settings: MusicnnSettings

    def __init__(self, settings: MusicnnSettings, card: Card, seed: int = 0) -> None:
        super().__init__()
        self.settings = settings
        with torch.device("meta"):
            self.network = NETWORKS[settings.network](settings)
        parameters = sum(parameter.numel() for parameter in self.parameters())
        self.card = card.model_copy(update={"parameters": parameters})
        init_weights(self.network, partial(init_musicnn_weights, self.network), seed)
        self.mel = build_constants(
            lambda: MelSpectrogram(_SAMPLE_RATE, framing_preset("musicnn"), MelBands(NUM_BANDS), "log10")
        )

    @property
    def tag_names(self) -> tuple[str, ...]:
        """The names of the tags."""
        return tuple(_TAG_NAMES[self.settings.dataset].split(", "))

    def num_frames(self, samples: int) -> int:
        """Return 1: a whole clip has one vector."""
        return 1

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the mean features of each clip's windows, `[B, 1, 1, D]` (see `Encoder.forward`)."""
        windows = [self.windows(samples_T) for samples_T in split_clips(samples_BT, lengths_B)]
        return mean_over_windows(self.window_features, windows, BATCH_SIZE)[:, None, None]

    def window_features(self, mel_NFM: Tensor) -> Tensor:
        """Return the features of windows, `[N, D]`."""
        return self.network(mel_NFM).float()

    @property
    def min_samples(self) -> int:
        """Samples from which a clip has a whole window."""
        return (WINDOW_FRAMES - 1) * self.mel.spectrum.framing.hop

    def window_batch(self, samples_BT: Tensor) -> Tensor:
        """Return the windows of clips of one length, at least `min_samples`, `[B, N, F, M]`."""
        mel_BFM = self.mel(samples_BT).clamp(max=_CEILING)
        return mel_BFM[:, : mel_BFM.shape[1] // WINDOW_FRAMES * WINDOW_FRAMES].unflatten(1, (-1, WINDOW_FRAMES))

    def predict_tags(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the probability of each of `tag_names`, mean over each clip's windows, `[B, G]`."""
        windows = [self.windows(samples_T) for samples_T in split_clips(samples_BT, lengths_B)]
        network = lambda mel_NFM: self.network.logits(self.network(mel_NFM)).sigmoid().float()  # noqa: E731
        return mean_over_windows(network, windows, BATCH_SIZE)

    def windows(self, samples_T: Tensor) -> Tensor:
        """Return the windows of one clip, the network's input, `[N, F, M]`, at least one."""
        mel_FM = self.mel(samples_T[None])[0].clamp(max=_CEILING)
        mel_FM = functional.pad(mel_FM, (0, 0, 0, max(WINDOW_FRAMES - len(mel_FM), 0)))
        return mel_FM[: len(mel_FM) // WINDOW_FRAMES * WINDOW_FRAMES].unflatten(0, (-1, WINDOW_FRAMES))


def _load_official(name: str, path: Path) -> Mapping[str, Tensor]:
    """Return the weights of a variant by our names, read as their authors publish them.

    Args:
        name: the variant.
        path: the wheel musicnn 0.1.0; a folder that holds the checkpoint, or is the library's or its repository's; one
            of the checkpoint's files, or their common prefix.

    Raises:
        WeightsError: the checkpoint is missing, damaged or another variant's.
    """
    card, settings = _VARIANTS[name]
    tensors, source = read_musicnn_tensors(FOLDERS[name], settings.network, Path(path))
    with torch.device("meta"):
        encoder = _MusicnnEncoder(settings, card)
    # Only PyTorch counts the batches of the training.
    counts = {key: torch.tensor(0) for key in encoder.state_dict() if key.endswith("num_batches_tracked")}
    load_state_dict_strict(encoder, tensors | counts, source)
    return encoder.state_dict()


def _update_card(card: Card, settings: MusicnnSettings) -> Card:
    """Return the card of a network with other settings, of which nothing is published."""
    return card.model_copy(update={"dim": settings.dim, "files": {}, "benchmark_setup": ""})


def _variant(name: str, settings: MusicnnSettings, parameters: int) -> tuple[Card, MusicnnSettings]:
    windows = "windows of 187 frames (3 s), no overlap, the rest dropped"
    setup = f"none known: {windows}; mean over windows; samples as they are"
    if name == "musicnn-msd-big":
        setup = f"JukeMIR, MARBLE: {windows}; mean and largest over frames, then mean over windows; samples as they are"
    is_vgg = settings.network == "vgg"
    card = Card(
        name=name,
        sample_rate=_SAMPLE_RATE,
        frame_rate=None,
        num_layers=0,
        dim=settings.dim,
        parameters=parameters,
        license="ISC",
        commercial_use=True,
        trained_on=("magnatagatune",) if settings.dataset == "mtt" else ("Million Song Dataset",),
        # MagnaTagATune has 25,863 clips of 29 s.
        training_hours=(208, 208) if settings.dataset == "mtt" else (10_000, 20_000),
        pretraining_task="tagging of music",
        input="log-mel",
        network="5 convolutions" if is_vgg else "5 convolutions beside each other, 3 one after another",
        context_seconds=3.0,
        stride_seconds=3.0,
        paper="Pons and Serra 2019, musicnn, https://arxiv.org/abs/1909.06654",
        benchmark_setup=setup,
        files=FILES[name],
    )
    return card, settings


_BIG = MusicnnSettings(dataset="msd", middle_channels=512, dense_dim=500)
_VARIANTS = {
    "musicnn-mtt": _variant("musicnn-mtt", MusicnnSettings(), 787_159),
    "musicnn-msd": _variant("musicnn-msd", MusicnnSettings(dataset="msd"), 787_159),
    "musicnn-msd-big": _variant("musicnn-msd-big", _BIG, 7_980_235),
    "musicnn-mtt-vgg": _variant("musicnn-mtt-vgg", MusicnnSettings(network="vgg"), 605_748),
    "musicnn-msd-vgg": _variant("musicnn-msd-vgg", MusicnnSettings(network="vgg", dataset="msd"), 605_748),
}
ENCODER = EncoderFamily(
    settings=MusicnnSettings,
    build=_MusicnnEncoder,
    variants=_VARIANTS,
    update_card=_update_card,
    load_official=_load_official,
)
