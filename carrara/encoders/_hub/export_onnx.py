"""An encoder as an ONNX file with its front end: samples in, every layer out, for any number of clips of one length.

Input `samples`, float32 [batch, samples], mono at the card's rate; output `layers`, float32
[batch, layers + 1, frames, dim]. There is no input for lengths: the clips of a batch have one length. The file is
compared with the encoder in onnxruntime, on inputs of other lengths than the one that it was traced with.

A spectrogram becomes a convolution with the windowed sines and cosines of the Fourier transform, which runtimes for the
web have too. Networks over frames (HuBERT's shape, the conformers) are exported as they are, those that average over
the windows of a clip through `window_batch` and `window_features`, which do all clips at once, and those that divide a
clip in another way (MAEST, mel-patch, CHOI, Dasheng, LAION-CLAP) through `forward_traceable`. A CQT becomes matrix
products.

Letters: B batch, T samples, F frames, K frequencies, M bands, W samples of a frame, N windows, D dim.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from carrara.core.errors import CarraraError, StoreError, UsageError
from carrara.core.io import atomic_write, write_text
from carrara.encoders._base import Encoder
from carrara.encoders._frame_encoder import FrameEncoder
from carrara.nn.conv.efficientnet import EfficientNet
from carrara.nn.conv.subsampling import ConvSubsampling
from carrara.nn.spectral.cqt import CQT, MatrixCQT
from carrara.nn.spectral.framing import Framing, Spectrum, make_window

MODEL = "model.onnx"
TOLERANCE = 1e-4
PROTOBUF_LIMIT = 1.9e9
TRACEABLE = ("forward_traceable", "window_batch")


def export_onnx(encoder: Encoder, folder: Path) -> None:
    """Write `model.onnx` and a README into a folder.

    Raises:
        UsageError: The extra is not installed, or the network is too large or of a kind that ONNX cannot hold.
        StoreError: The file cannot be written, or its layers are not the encoder's.
    """
    card = encoder.card
    if not isinstance(encoder, FrameEncoder) and not any(hasattr(encoder, name) for name in TRACEABLE):
        raise UsageError(
            f"{card.name}: --format onnx holds networks over frames (MERT and its kind, MusicFM, MuQ, mel-conformer) "
            "and over windows (MAEST, mel-patch, MusiCNN, EffNet-Discogs, CLMR, MULE, CHOI, Dasheng, LAION-CLAP, "
            "cqt-mel); --format carrara holds every encoder"
        )
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise UsageError("--format onnx needs onnx, onnxscript and onnxruntime; pip install 'carrara[onnx]'") from None
    audio = sum(tensor.numel() for name, tensor in encoder.named_parameters() if not name.startswith("text_"))
    if 4 * audio > PROTOBUF_LIMIT:
        raise UsageError(f"{card.name}: is larger than the 2 GB that one ONNX file can hold")
    copied = copy.deepcopy(encoder).cpu().float().eval().requires_grad_(False)
    exported = _SamplesOnly(_with_convolutions(copy.deepcopy(copied)))
    shortest = getattr(encoder, "min_samples", card.sample_rate // 10)
    if hasattr(encoder, "forward_traceable"):
        with torch.inference_mode():
            _SamplesOnly(copied)(_noise(1, shortest))  # its own errors, not wrapped in the exporter's
    batch, samples = torch.export.Dim("batch"), torch.export.Dim("samples", min=shortest)
    with _silent_exporter(card.name):
        program: Any = torch.onnx.export(
            exported,
            (_noise(2, max(card.sample_rate, 2 * shortest)),),
            dynamo=True,
            dynamic_shapes={"samples_BT": {0: batch, 1: samples}},
            input_names=["samples"],
            output_names=["layers"],
            verbose=False,
        )
        with atomic_write(folder / MODEL) as tmp:
            program.save(str(tmp), external_data=False)
            _compare(copied, tmp, shortest)
    write_text(
        folder / "README.md",
        f"# {card.name} as ONNX\n\nWritten by `carrara export --format onnx`.\n\n"
        f"- input `samples`: float32 [batch, samples], mono, {card.sample_rate} Hz, at least {shortest} samples\n"
        f"- output `layers`: float32 [batch, {card.num_layers + 1}, frames, {card.dim}]; layer 0 is the input to layer "
        "1\n"
        f"- trained on: {', '.join(card.trained_on) or 'not stated'}; licence of the weights: "
        f"{card.license or 'not stated'}; paper: {card.paper or 'none'}\n",
    )


@contextlib.contextmanager
def _silent_exporter(name: str) -> Iterator[None]:
    """Silence the exporter and the runtime, and turn their errors into one line."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    except CarraraError:
        raise
    except Exception as problem:  # their exceptions have no common base class
        reason = " ".join(str(problem).split()) or type(problem).__name__
        raise UsageError(f"{name}: cannot be written as ONNX ({reason[:200]})") from None
    finally:
        logging.disable(before)


class _SamplesOnly(nn.Module):
    """An encoder that takes samples without lengths."""

    encoder: Any

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, samples_BT: Tensor) -> Tensor:
        if hasattr(self.encoder, "forward_traceable"):
            return self.encoder.forward_traceable(samples_BT)
        if not hasattr(self.encoder, "window_batch"):
            return self.encoder.forward(samples_BT)
        windows = self.encoder.window_batch(samples_BT)
        features_ND = self.encoder.window_features(windows.flatten(0, 1))
        return features_ND.unflatten(0, (-1, windows.shape[1])).mean(dim=1)[:, None, None]


class _ConvolutionSpectrum(nn.Module):
    """`Spectrum` as one convolution; what it does to a frame before the Fourier transform is linear too."""

    basis_C1W: Tensor

    def __init__(self, framing: Framing) -> None:
        super().__init__()
        self.framing = framing
        frames_WW = torch.eye(framing.window, dtype=torch.float64)
        if framing.remove_mean:
            frames_WW = frames_WW - frames_WW.mean(dim=-1, keepdim=True)
        if framing.preemphasis:
            before_WW = torch.cat([frames_WW[:, :1], frames_WW[:, :-1]], dim=-1)
            frames_WW = frames_WW - framing.preemphasis * before_WW
        spectrum_WK = torch.fft.rfft(frames_WW * make_window(framing), n=framing.fft_size)
        basis_CW = torch.cat([spectrum_WK.real, spectrum_WK.imag], dim=-1).mT
        self.register_buffer("basis_C1W", basis_CW[:, None].float())

    def forward(self, samples_BT: Tensor, bank_KM: Tensor | None = None) -> Tensor:
        """Return the power `[B, F, K]`, or its bands `[B, F, M]`."""
        framing, samples = self.framing, samples_BT.shape[-1]
        if framing.padding == "none":
            padded_BT = samples_BT
        else:
            left = framing.fft_size // 2 - (framing.fft_size - framing.window) // 2
            # As many frames as fit are too many by one at most, which is cut off.
            mode = "reflect" if framing.padding == "reflect" else "constant"
            padded_BT = nn.functional.pad(samples_BT[:, None], (left, left), mode=mode)[:, 0]
        parts_BCF = nn.functional.conv1d(padded_BT[:, None], self.basis_C1W, stride=framing.hop)
        if framing.padding != "none":
            parts_BCF = parts_BCF[..., : samples // framing.hop + framing.keep_last]
        real_BKF, imaginary_BKF = parts_BCF.chunk(2, dim=1)
        power_BFK = (real_BKF.square() + imaginary_BKF.square()).mT
        return power_BFK if bank_KM is None else power_BFK @ bank_KM


class _InstanceNorm(nn.Module):
    """torch's instance norm of maps `[B, C, H, W]` in operations that the exporter has."""

    def __init__(self, norm: nn.InstanceNorm2d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps, each with mean 0 and variance 1 before weight and bias."""
        centred = x - x.mean((2, 3), keepdim=True)
        scaled = centred * torch.rsqrt(centred.square().mean((2, 3), keepdim=True) + self.eps)
        return scaled * self.weight[:, None, None] + self.bias[:, None, None]


def _with_convolutions(encoder: Encoder) -> Encoder:
    """Make what the exporter cannot trace into what it can: Fourier transforms, and switches that are tensors."""
    for module in list(encoder.modules()):
        if isinstance(module, EfficientNet):
            is_symmetric = bool(module.symmetric)
            del module._buffers["symmetric"]
            module.symmetric = is_symmetric  # type: ignore[assignment]
        if isinstance(module, ConvSubsampling):
            module.block_frames = None
        for name, child in module.named_children():
            if isinstance(child, Spectrum):
                setattr(module, name, _ConvolutionSpectrum(child.framing))
            elif isinstance(child, CQT):
                setattr(module, name, MatrixCQT(child))
            elif isinstance(child, nn.InstanceNorm2d):
                setattr(module, name, _InstanceNorm(child))
    return encoder


@torch.inference_mode()
def _compare(encoder: Encoder, path: Path, shortest: int) -> None:
    """Compare a file with the encoder itself, which divides clips and transforms in its own way."""
    import onnxruntime

    card = encoder.card
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # it writes past Python's streams
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    second = max(card.sample_rate, shortest)
    sizes = [(1, second), (3, second * 3 // 2 + 7), (2, 3 * second)]
    if card.window_seconds and hasattr(encoder, "forward_traceable"):  # more than one window
        sizes.append((1, round(1.3 * card.window_seconds * card.sample_rate)))
    for clips, samples in sizes:
        samples_BT = _noise(clips, samples)
        actual = torch.from_numpy(session.run(["layers"], {"samples": samples_BT.numpy()})[0])
        expected = encoder(samples_BT)
        if actual.shape != expected.shape or not torch.allclose(actual, expected, atol=TOLERANCE, rtol=TOLERANCE):
            raise StoreError(
                f"{card.name}: the ONNX file's layers are not the encoder's, so it was removed; please report this"
            )


def _noise(clips: int, samples: int) -> Tensor:
    return 0.1 * torch.randn(clips, samples, generator=torch.Generator().manual_seed(0))
