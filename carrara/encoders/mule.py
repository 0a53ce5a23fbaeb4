"""MULE: a slow and a fast convolutional path over 3-s slices, trained contrastively without labels (SF-NFNet-F0).

[mccallum2022]; [notes/encoders §2.4]. 16 kHz, 96 mel bands (HTK scale, each triangle of unit norm) every 10 ms, log10(1
+ 10000 x). Slices of 300 frames are centred on frames 200, 400, … of a clip, the last one moved back so that it ends
with the clip; each is standardized to mean 0 and std 1 (a std below 0.01 counts as 0.01) and gives 1728 numbers. Their
mean is the clip's vector: 15 slices for 30 s, one for 3 s. No slice covers the first 0.5 s, except in clips shorter
than 3.5 s. A clip shorter than 3 s, which the original rejects, is padded with zeros.

Level matters slightly: log10(1 + 10000 x) bends. The authors' loader divides 16-bit samples by 65536 and adds the
channels, so that a stereo file has the mean of its channels between ±1, but a mono file half of that. MARBLE's takes
the mean between ±1 for both, and so does Carrara; `amplitude` 0.5 gives the authors' features of mono files.

Weights: model.keras of github.com/PandoraMedia/music-audio-representations (251 MB, Git LFS), CC BY-NC 4.0. The
SavedModel of older software was withdrawn in June 2024 and is not read here. The file is read with h5py
(`carrara[keras]`) and matched layer by layer by shapes and inputs, because the layers' names were not known when this
was written. The file was not available either: its features were not compared with the original's. It is unknown
whether a stage's second block expects a variance of 1.04 or, as here, of 1.08 (nn/conv/slow_fast.py); no activation is
documented in the two convolutions between the paths, so there is none.

Letters: B batch, T samples, F frames, M mel bands, N slices, D dimension.
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
from carrara.encoders._windows import mean_over_windows, split_clips
from carrara.formats.keras import ArraySizes, LayerSlot, match_layers, read_keras
from carrara.nn.conv.nfnet import StandardizedConv, init_nfnet_weights
from carrara.nn.conv.slow_fast import SlowFast, SlowFastSettings
from carrara.nn.init import build_constants, init_weights
from carrara.nn.spectral.framing import Framing
from carrara.nn.spectral.mel import MelBands, MelSpectrogram

VARIANTS = {"mule": "MULE: two-path NFNet over 3-s slices, 62M, 16 kHz, one vector a clip, 1728 numbers"}
_FILE = "model.keras"
FILES = {
    "mule": {
        "https://github.com/PandoraMedia/music-audio-representations/raw/1d77a64/supporting_data/model/model.keras": (
            "1da111d619bac0d422e41f153cbfb903f7ec3c5d3b2768f5d68f04452ed18180"
        )
    }
}
_SAMPLE_RATE = 16_000
_FRAMING = Framing(400, 160, 2048, padding="reflect")
_BANDS = MelBands(96, 0.0, 8000.0, "htk", "l2")
_SLICE_FRAMES, _SLICE_HOP = 300, 200
_MIN_SAMPLES = 3 * _SAMPLE_RATE
_MIN_STD = 0.01
# The convolution that feeds each part of a block; "" is the block's gain.
_FED_BY = {
    "along_time": "narrow",
    "along_frequency": "along_time",
    "widen": "along_frequency",
    "excitation.squeeze": "widen",
    "excitation.excite": "widen",
    "": "widen",
}
_BATCH_SIZE = 8  # slices: about 10 MB of activations each


class MuleSettings(SlowFastSettings):
    """Settings of a MULE; the defaults are the published ones.

    Attributes:
        amplitude: factor on the samples; 0.5 is what the authors' loader does to mono files.
    """

    amplitude: float = Field(default=1.0, gt=0)


class _Mule(Encoder):
    """The encoder, with random weights of that seed (none under torch's meta device)."""

    settings: MuleSettings

    def __init__(self, settings: MuleSettings, card: Card, seed: int = 0) -> None:
        super().__init__()
        self.settings, self.card = settings, card
        self.mel = build_constants(lambda: MelSpectrogram(_SAMPLE_RATE, _FRAMING, _BANDS, "log10"))
        with torch.device("meta"):
            self.network = SlowFast(settings)
        init_weights(self.network, partial(init_nfnet_weights, self.network), seed)

    def num_frames(self, samples: int) -> int:
        """Return 1: a whole clip has one vector."""
        return 1

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the mean over each clip's slices, `[B, 1, 1, D]`."""
        slices = [split_slices(self.spectrogram(samples_T)) for samples_T in split_clips(samples_BT, lengths_B)]
        return mean_over_windows(self.window_features, slices, _BATCH_SIZE)[:, None, None]

    def window_features(self, slices_NFM: Tensor) -> Tensor:
        """Return the features of slices, `[N, D]`."""
        return self.network(standardize_slices(slices_NFM).mT).float()

    @property
    def min_samples(self) -> int:
        """Samples below which a clip is padded."""
        return _MIN_SAMPLES

    def window_batch(self, samples_BT: Tensor) -> Tensor:
        """Return the slices of clips of one length, at least `min_samples`, `[B, N, F, M]`."""
        mel_BFM = self.mel(self.settings.amplitude * samples_BT)
        frames = mel_BFM.shape[1]
        centre_N = torch.arange((frames - 1) // _SLICE_HOP) * _SLICE_HOP + _SLICE_HOP
        first_N = (centre_N - _SLICE_FRAMES // 2).clamp(max=frames - _SLICE_FRAMES)
        return mel_BFM[:, first_N[:, None] + torch.arange(_SLICE_FRAMES)]

    def spectrogram(self, samples_T: Tensor) -> Tensor:
        """Return the log-mel spectrogram of one clip, `[F, M]`, of at least 3 s."""
        padded_T = functional.pad(samples_T, (0, max(_MIN_SAMPLES - len(samples_T), 0)))
        return self.mel(self.settings.amplitude * padded_T[None])[0]


def split_slices(mel_FM: Tensor) -> Tensor:
    """Return the slices `[N, 300, M]` of a spectrogram of at least 300 frames (see the head of this file)."""
    frames = len(mel_FM)
    centres = range(_SLICE_HOP, frames, _SLICE_HOP)
    starts = [min(centre - _SLICE_FRAMES // 2, frames - _SLICE_FRAMES) for centre in centres]
    return torch.stack([mel_FM[start : start + _SLICE_FRAMES] for start in starts])


def standardize_slices(slices_NFM: Tensor) -> Tensor:
    """Return each slice with mean 0 and std 1; a nearly constant slice keeps its small std, times 100."""
    std, mean = torch.std_mean(slices_NFM, dim=(1, 2), correction=0, keepdim=True)
    return (slices_NFM - mean) / std.clamp(min=_MIN_STD)


def _load_official(name: str, path: Path) -> Mapping[str, Tensor]:
    """Return the published weights by the network's own names.

    Args:
        name: the variant.
        path: model.keras, or the folder that holds it.

    Raises:
        UsageError: h5py is not installed.
        WeightsError: no such file, or one that is damaged or of another network.
    """
    if path.is_dir() and not (path / _FILE).is_file() and (path / "saved_model.pb").is_file():
        raise WeightsError(f"{path}: is a SavedModel, which is not read here; give {_FILE}, which replaced it in 2024")
    return convert_keras_file(path / _FILE if path.is_dir() else path, ENCODER.variants[name][1])  # type: ignore[arg-type]


def convert_keras_file(path: Path, settings: SlowFastSettings) -> dict[str, Tensor]:
    """Return the weights in a .keras file of a network of these settings, by the encoder's own names.

    Raises:
        UsageError: h5py is not installed.
        WeightsError: no such file, or one that is damaged or of another network.
    """
    with torch.device("meta"):
        network = SlowFast(settings)
    tensors = {}
    for name, (first, *others) in match_layers(read_keras(path), _layer_slots(network), str(path)).items():
        module = network.get_submodule(name)
        if isinstance(module, StandardizedConv):
            tensors[f"{name}.weight"] = first.permute(3, 2, 0, 1)
            tensors[f"{name}.bias"], tensors[f"{name}.gain"] = (array.flatten() for array in others)
        elif isinstance(module, nn.Linear):
            tensors |= {f"{name}.weight": first.T, f"{name}.bias": others[0]}
        else:
            tensors[f"{name}.gain"] = first.view(())
    # Biases and gains both have one number for each channel, so shapes do not distinguish them.
    convolutions = [key.removesuffix(".weight") for key, tensor in tensors.items() if tensor.dim() == 4]
    bias, gain = (torch.cat([tensors[f"{name}.{kind}"] for name in convolutions]).mean() for kind in ("bias", "gain"))
    if bias > gain:
        raise WeightsError(
            f"{path}: a convolution's second array should be its bias and the third its gain, but the second are the "
            f"larger on average ({bias:.3g}, {gain:.3g}): it was written in another order; give the official file"
        )
    return {f"network.{key}": tensor.contiguous() for key, tensor in tensors.items()}


def _layer_slots(network: SlowFast) -> list[LayerSlot]:
    """Return the slots of a file's layers, by the names of the network's modules; a block's name is its gain's."""
    slots, slow = _chain_slots("slow_stem", network.slow_stem, frozenset())
    fast_slots, fast = _chain_slots("fast_stem", network.fast_stem, frozenset())
    slots += fast_slots
    stages = zip(network.laterals, network.slow_stages, network.fast_stages)
    for index, (lateral, slow_stage, fast_stage) in enumerate(stages):
        lateral_slots, lateral_ends = _chain_slots(f"laterals.{index}", lateral, fast)
        slow_slots, slow = _stage_slots(f"slow_stages.{index}", slow_stage, slow | lateral_ends)
        fast_slots, fast = _stage_slots(f"fast_stages.{index}", fast_stage, fast)
        slots += lateral_slots + slow_slots + fast_slots
    return slots


def _chain_slots(name: str, chain: nn.Module, before: frozenset[str]) -> tuple[list[LayerSlot], frozenset[str]]:
    """Return the slots of convolutions that follow one another, and the last of them, which feeds the next layer."""
    slots = []
    for index, module in chain.named_children():
        slots.append(LayerSlot(f"{name}.{index}", _array_sizes(module), before))
        before = frozenset({f"{name}.{index}"})
    return slots, before


def _stage_slots(name: str, blocks: nn.Module, before: frozenset[str]) -> tuple[list[LayerSlot], frozenset[str]]:
    """Return the slots of a stage, and its ends; a block's last convolution and its shortcut feed the next layer."""
    slots = []
    for index, block in blocks.named_children():
        block_name = f"{name}.{index}"
        for part in ["narrow", *_FED_BY, *(["shortcut"] if block.shortcut is not None else [])]:
            feeding = frozenset({f"{block_name}.{_FED_BY[part]}"}) if part in _FED_BY else before
            slot_name = f"{block_name}.{part}".rstrip(".")
            slots.append(LayerSlot(slot_name, _array_sizes(block.get_submodule(part)), feeding))
        skipped = before if block.shortcut is None else {f"{block_name}.shortcut"}
        before = frozenset({*skipped, f"{block_name}.widen"})
    return slots, before


def _array_sizes(module: nn.Module) -> ArraySizes:
    if isinstance(module, StandardizedConv):
        outputs, inputs, height, width = module.weight.shape
        return (height, width, inputs, outputs), outputs, outputs
    if isinstance(module, nn.Linear):
        return (module.in_features, module.out_features), module.out_features
    return ((),)


def _update_card(card: Card, settings: MuleSettings) -> Card:
    """Return a card with the sizes of other settings."""
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in SlowFast(settings).parameters())
    return card.model_copy(update={"dim": settings.dim, "parameters": parameters})


_CARD = Card(
    name="mule",
    sample_rate=_SAMPLE_RATE,
    frame_rate=None,
    num_layers=0,
    dim=1728,
    parameters=62_345_742,
    license="CC-BY-NC-4.0",
    commercial_use=False,
    trained_on=("Musicset",),
    training_hours=(117_500, 117_500),
    pretraining_task="contrastive learning",
    input="log-mel",
    network="SlowFast NFNet-F0",
    context_seconds=3.0,
    stride_seconds=2.0,
    paper="McCallum et al. 2022, Supervised and Unsupervised Learning of Audio Representations for Music "
    "Understanding, ISMIR, https://arxiv.org/abs/2210.03799",
    benchmark_setup="MARBLE: windows of 300 frames (3 s) every 2 s, the last moved back to the end; mean over windows; "
    "each window standardised, samples the mean of channels within ±1",
    files=FILES["mule"],
)
ENCODER = EncoderFamily(
    MuleSettings, _Mule, {"mule": (_CARD, MuleSettings())}, update_card=_update_card, load_official=_load_official
)
