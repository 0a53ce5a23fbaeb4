"""An encoder as an ONNX file: samples in, every layer out, for any number of clips of one length.

Input `samples`, float32 [batch, samples], mono at the card's rate; output `layers`, float32
[batch, layers + 1, frames, dim]. There is no input for lengths: the clips of a batch have one length. The file is
compared with the encoder in onnxruntime, on inputs of other lengths than the one that it was traced with. Networks of
HuBERT's and data2vec's shape only: the exporter cannot follow the others' spectrograms and windows.
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
from carrara.encoders._base import Card, Encoder
from carrara.encoders._hubert.network import HubertSettings

MODEL = "model.onnx"
TOLERANCE = 1e-4
PROTOBUF_LIMIT = 1.9e9


def export_onnx(encoder: Encoder, folder: Path) -> None:
    """Write `model.onnx` and a README into a folder.

    Raises:
        UsageError: The extra is not installed, or the network is too large or of a kind that ONNX cannot hold.
        StoreError: The file cannot be written, or its layers are not the encoder's.
    """
    card = encoder.card
    if not isinstance(encoder.settings, HubertSettings):
        raise UsageError(
            f"{card.name}: --format onnx holds networks of HuBERT's and data2vec's shape only (MERT, Music2Vec, "
            "MusicHuBERT); --format carrara holds every encoder"
        )
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise UsageError("--format onnx needs onnx, onnxscript and onnxruntime; pip install 'carrara[onnx]'") from None
    if 4 * card.parameters > PROTOBUF_LIMIT:
        raise UsageError(f"{card.name}: is larger than the 2 GB that one ONNX file can hold")
    module = _SamplesOnly(copy.deepcopy(encoder).cpu().float().eval().requires_grad_(False))
    batch, samples = torch.export.Dim("batch"), torch.export.Dim("samples", min=card.sample_rate // 10)
    with _silent_exporter(card.name):
        program: Any = torch.onnx.export(
            module,
            (_noise(2, card.sample_rate),),
            dynamo=True,
            dynamic_shapes={"samples_BT": {0: batch, 1: samples}},
            input_names=["samples"],
            output_names=["layers"],
            verbose=False,
        )
        with atomic_write(folder / MODEL) as tmp:
            program.save(str(tmp), external_data=False)
            _compare(module, tmp, card)
    write_text(
        folder / "README.md",
        f"# {card.name} as ONNX\n\nWritten by `carrara export --format onnx`.\n\n"
        f"- input `samples`: float32 [batch, samples], mono, {card.sample_rate} Hz\n"
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

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, samples_BT: Tensor) -> Tensor:
        return self.encoder.forward(samples_BT)


@torch.inference_mode()
def _compare(module: nn.Module, path: Path, card: Card) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # it writes past Python's streams
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    for clips, samples in ((1, card.sample_rate), (3, card.sample_rate * 3 // 2 + 7)):
        samples_BT = _noise(clips, samples)
        actual = torch.from_numpy(session.run(["layers"], {"samples": samples_BT.numpy()})[0])
        expected = module(samples_BT)
        if actual.shape != expected.shape or not torch.allclose(actual, expected, atol=TOLERANCE, rtol=TOLERANCE):
            raise StoreError(
                f"{card.name}: the ONNX file's layers are not the encoder's, so it was removed; please report this"
            )


def _noise(clips: int, samples: int) -> Tensor:
    return 0.1 * torch.randn(clips, samples, generator=torch.Generator().manual_seed(0))
