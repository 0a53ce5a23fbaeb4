"""MULE: a slow and a fast convolutional path over 3-s slices, taught by contrast, without labels (SF-NFNet-F0).

McCallum, Korzeniowski, Oramas, Gouyon, Ehmann 2022, "Supervised and Unsupervised Learning of Audio Representations for
Music Understanding" (ISMIR, arXiv 2210.03799); facts from spec encoders.md 2.4. 16 kHz, 96 mel bands (HTK scale, each
triangle of unit norm) every 10 ms, log10(1 + 10000 x). Slices of 300 frames are centred on frames 200, 400, … of a
clip, the last one moved back so that it ends with the clip; each is brought to mean 0 and deviation 1 (a deviation
below 0.01 counts as 0.01) and gives 1728 numbers. Their mean is the clip's answer: 15 slices for 30 s, one for 3 s. The
first 0.5 s is heard by none of them, except in clips shorter than 3.5 s. A clip shorter than 3 s, which the original
does not take, is filled up with zeros.

Level matters a little: log10(1 + 10000 x) bends. The authors' loader divides 16-bit samples by 65536 and adds the
channels, so that a stereo file is heard at the mean of its channels between ±1, but a mono file at half of that.
MARBLE's takes the mean between ±1 for both, and so does Carrara; `amplitude` 0.5 gives what theirs gave for mono files.

Weights: model.keras of github.com/PandoraMedia/music-audio-representations (251 MB, Git LFS), CC BY-NC 4.0. The
SavedModel that older software asks for was taken away in June 2024 and is not read here. Read with h5py
(`carrara[keras]`), layer by layer after its shapes and what feeds it, because the layers' names were not known when
this was written. The file could not be had either: what it gives was not compared with the original's answers. The
spec leaves open whether a stage's second block expects a variance of 1.04 or, as here, of 1.08 (nn/slow_fast.py), and
names no activation in the two convolutions between the paths, so there is none.

Letters: B batch, T samples, F frames, M mel bands, N slices, L layers counted with row 0, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from carrara.core.errors import WeightsError
from carrara.encoders._base import Card, Encoder, EncoderFamily
from carrara.formats.keras import Place, Sizes, placed, read_keras
from carrara.nn.conv.nfnet import StandardisedConv, initialise
from carrara.nn.conv.slow_fast import SlowFast, SlowFastSettings
from carrara.nn.init import draw_weights
from carrara.nn.spectral.framing import Framing
from carrara.nn.spectral.mel import Bands, MelSpectrogram

VARIANTS = {"mule": "MULE: two-path NFNet over 3-s slices, 62M, 16 kHz, one answer a clip, 1728 numbers"}
FILE = "model.keras"
FILES = {
    "mule": {
        "https://github.com/PandoraMedia/music-audio-representations/raw/1d77a64/supporting_data/model/model.keras": (
            "1da111d619bac0d422e41f153cbfb903f7ec3c5d3b2768f5d68f04452ed18180"
        )
    }
}
SAMPLE_RATE = 16_000
FRAMING = Framing(400, 160, 2048, padding="reflect")
BANDS = Bands(96, 0.0, 8000.0, "htk", "l2")
SLICE, HOP = 300, 200
LEAST_SAMPLES = 3 * SAMPLE_RATE
LEAST_DEVIATION = 0.01
# Which convolution feeds each part of a block; "" is its gain.
FED_BY = {
    "along_time": "narrow",
    "along_frequency": "along_time",
    "widen": "along_frequency",
    "excitation.squeeze": "widen",
    "excitation.excite": "widen",
    "": "widen",
}
# Slices that go through the network at once: 0.3 GB of activations.
AT_ONCE = 32


class MuleSettings(SlowFastSettings):
    """Settings of a MULE; the defaults are the published ones.

    Attributes:
        amplitude: by which samples are multiplied first; 0.5 is what the authors' loader does to mono files.
    """

    amplitude: float = Field(default=1.0, gt=0)


PUBLISHED = MuleSettings()


class Mule(Encoder):
    """The encoder, with random weights drawn from a generator of that seed (none under torch's meta device)."""

    settings: MuleSettings

    def __init__(self, settings: MuleSettings, card: Card, seed: int = 0) -> None:
        super().__init__()
        self.settings, self.card = settings, card
        place = torch.get_default_device()
        # What is computed and not loaded must exist even where the weights do not yet.
        with torch.device("cpu" if place.type == "meta" else place):
            self.mel = MelSpectrogram(SAMPLE_RATE, FRAMING, BANDS, "log10")
        with torch.device("meta"):
            self.network = SlowFast(settings)
        draw_weights(self.network, partial(initialise, self.network), seed)

    def frames(self, samples: int) -> int:
        """Return 1: a whole clip gives one row of numbers."""
        return 1

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the mean over each clip's slices, `[B, 1, 1, D]`; slices of all clips share the blocks."""
        lengths = [samples_BT.shape[-1]] * len(samples_BT) if lengths_B is None else lengths_B.tolist()
        clips = [slices(self.spectrogram(clip_T[:length])) for clip_T, length in zip(samples_BT.float(), lengths)]
        heard = [slice_FM for clip in clips for slice_FM in clip]
        blocks = (torch.stack(heard[start : start + AT_ONCE]) for start in range(0, len(heard), AT_ONCE))
        features_ND = torch.cat([self.network(standardised(block_NFM).mT) for block_NFM in blocks]).float()
        means = [clip_ND.mean(dim=0) for clip_ND in features_ND.split([len(clip) for clip in clips])]
        return torch.stack(means)[:, None, None]

    def spectrogram(self, samples_T: Tensor) -> Tensor:
        """Return the log-mel spectrogram of one clip, `[F, M]`, of at least 3 s."""
        filled_T = functional.pad(samples_T, (0, max(LEAST_SAMPLES - len(samples_T), 0)))
        return self.mel(self.settings.amplitude * filled_T[None])[0]


def slices(mel_FM: Tensor) -> list[Tensor]:
    """Return the slices `[300, M]` of a spectrogram of at least 300 frames (see the head of this file)."""
    frames = len(mel_FM)
    starts = [min(centre - SLICE // 2, frames - SLICE) for centre in range(HOP, frames, HOP)]
    return [mel_FM[start : start + SLICE] for start in starts]


def standardised(slices_NFM: Tensor) -> Tensor:
    """Return each slice with mean 0 and deviation 1; one that hardly varies keeps its small deviation, times 100."""
    deviation, mean = torch.std_mean(slices_NFM, dim=(1, 2), correction=0, keepdim=True)
    return (slices_NFM - mean) / deviation.clamp(min=LEAST_DEVIATION)


def official(name: str, path: Path) -> Mapping[str, Tensor]:
    """Return the published weights by the network's own names.

    Args:
        name: the variant.
        path: model.keras, or the folder that holds it.

    Raises:
        UsageError: h5py is not installed.
        WeightsError: no such file, not whole, or not this network's.
    """
    if path.is_dir() and not (path / FILE).is_file() and (path / "saved_model.pb").is_file():
        raise WeightsError(
            f"{path}: is a SavedModel, which is not read here; give {FILE}, which took its place in 2024"
        )
    return from_keras(path / FILE if path.is_dir() else path, PUBLISHED)


def from_keras(path: Path, settings: SlowFastSettings) -> dict[str, Tensor]:
    """Return the weights in a .keras file of a network of these settings, by the encoder's own names.

    Raises:
        UsageError: h5py is not installed.
        WeightsError: no such file, not whole, or not this network's.
    """
    with torch.device("meta"):
        network = SlowFast(settings)
    arrays = placed(read_keras(path), list(places(network)), str(path))
    tensors = {}
    for place, (first, *others) in arrays.items():
        module = network.get_submodule(place)
        if isinstance(module, StandardisedConv):
            tensors[f"{place}.weight"] = first.permute(3, 2, 0, 1)
            tensors[f"{place}.bias"], tensors[f"{place}.gain"] = (array.flatten() for array in others)
        elif isinstance(module, nn.Linear):
            tensors |= {f"{place}.weight": first.T, f"{place}.bias": others[0]}
        else:
            tensors[f"{place}.gain"] = first.view(())
    _refuse_exchanged(tensors, path)
    return {f"network.{key}": tensor.contiguous() for key, tensor in tensors.items()}


def places(network: SlowFast) -> list[Place]:
    """Return where the layers of a file belong, by the names of the network's modules; a block's name is its gain's."""
    found, slow = _chain("slow_stem", network.slow_stem, frozenset())
    more, fast = _chain("fast_stem", network.fast_stem, frozenset())
    found += more
    stages = zip(network.laterals, network.slow_stages, network.fast_stages)
    for stage, (lateral, slow_stage, fast_stage) in enumerate(stages):
        across, brought = _chain(f"laterals.{stage}", lateral, fast)
        below, slow = _stage(f"slow_stages.{stage}", slow_stage, slow | brought)
        above, fast = _stage(f"fast_stages.{stage}", fast_stage, fast)
        found += across + below + above
    return found


def _chain(name: str, convolutions: nn.Module, before: frozenset[str]) -> tuple[list[Place], frozenset[str]]:
    """Return the places of convolutions that follow one another, and what comes just before whatever follows them."""
    found = []
    for number, module in convolutions.named_children():
        found.append(Place(f"{name}.{number}", _sizes(module), before))
        before = frozenset({f"{name}.{number}"})
    return found, before


def _stage(name: str, blocks: nn.Module, before: frozenset[str]) -> tuple[list[Place], frozenset[str]]:
    """Return the same for a stage; what follows a block is fed by its last convolution and by its shortcut."""
    found = []
    for number, block in blocks.named_children():
        inside = f"{name}.{number}"
        for part in ["narrow", *FED_BY, *(["shortcut"] if block.shortcut is not None else [])]:
            feeding = frozenset({f"{inside}.{FED_BY[part]}"}) if part in FED_BY else before
            found.append(Place(f"{inside}.{part}".rstrip("."), _sizes(block.get_submodule(part)), feeding))
        skipped = before if block.shortcut is None else {f"{inside}.shortcut"}
        before = frozenset({*skipped, f"{inside}.widen"})
    return found, before


def _sizes(module: nn.Module) -> Sizes:
    if isinstance(module, StandardisedConv):
        outputs, inputs, height, width = module.weight.shape
        return (height, width, inputs, outputs), outputs, outputs
    if isinstance(module, nn.Linear):
        return (module.in_features, module.out_features), module.out_features
    return ((),)


def _refuse_exchanged(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse gains that look like biases: both have one number for each channel, so that shapes do not tell them."""
    convolutions = [key.removesuffix(".weight") for key, tensor in tensors.items() if tensor.dim() == 4]
    bias, gain = (torch.cat([tensors[f"{name}.{kind}"] for name in convolutions]).mean() for kind in ("bias", "gain"))
    if bias > gain:
        raise WeightsError(
            f"{path}: a convolution's second array should be its bias and the third its gain, but the second are the "
            f"larger on average ({bias:.3g}, {gain:.3g}): it was written in another order; give the official file"
        )


def network(settings: MuleSettings, card: Card, seed: int) -> Mule:
    """Return the encoder with random weights drawn from a generator of that seed."""
    return Mule(settings, card, seed)


def redescribed(card: Card, settings: MuleSettings) -> Card:
    """Return a card with what follows from other settings."""
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in SlowFast(settings).parameters())
    return card.model_copy(update={"dim": settings.width, "parameters": parameters})


CARD = Card(
    name="mule",
    sample_rate=SAMPLE_RATE,
    frame_rate=None,
    num_layers=0,
    dim=1728,
    parameters=62_345_742,
    license="CC-BY-NC-4.0",
    commercial_use=False,
    trained_on=("Musicset",),
    paper="McCallum et al. 2022, Supervised and Unsupervised Learning of Audio Representations for Music "
    "Understanding, ISMIR, https://arxiv.org/abs/2210.03799",
    benchmark_setup="MARBLE: windows of 300 frames (3 s) every 2 s, the last moved back to the end; mean over windows; each "
    "window standardised, samples the mean of channels within ±1",
    files=FILES["mule"],
)
ENCODER = EncoderFamily(
    MuleSettings, network, {"mule": (CARD, PUBLISHED)}, update_card=redescribed, load_official=official
)
