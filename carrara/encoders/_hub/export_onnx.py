"""An encoder as an ONNX file: samples in, every layer out, any number of clips of any one length.

Input `samples`, float32 [batch, samples], as the encoder hears them (mono, at the card's rate); output `layers`,
float32 [batch, layers + 1, frames, width]. There is no input for lengths: clips of a batch are of one length. The file
is run by onnxruntime, on sounds of other lengths than the one that it was traced with, before it is called done.
Networks of HuBERT's and data2vec's shape only: the exporter cannot follow the others' spectrograms and windows.
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
        UsageError: the extra is not installed, or the network is too large or of a kind that ONNX cannot hold.
        StoreError: it cannot be written, or its layers are not the encoder's.
    """
    name = encoder.card.name
    if not isinstance(encoder.settings, HubertSettings):
        raise UsageError(
            f"{name}: --format onnx holds networks of HuBERT's and data2vec's shape only (MERT, Music2Vec, "
            "MusicHuBERT); --format carrara holds every encoder"
        )
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise UsageError("--format onnx needs onnx, onnxscript and onnxruntime; pip install 'carrara[onnx]'") from None
    if 4 * encoder.card.parameters > PROTOBUF_LIMIT:
        raise UsageError(f"{name}: is larger than the 2 GB that one ONNX file can hold")
    frozen = _Plain(copy.deepcopy(encoder).cpu().float().eval().requires_grad_(False))
    with _in_one_line(name):
        program = _program(frozen, encoder.card)
        with atomic_write(folder / MODEL) as draft:
            program.save(str(draft), external_data=False)
            _compare(frozen, draft, encoder.card)
    write_text(folder / "README.md", _readme(encoder))


def _program(frozen: nn.Module, card: Card) -> Any:
    rate = card.sample_rate
    return torch.onnx.export(
        frozen,
        (_sound(2, rate),),
        dynamo=True,
        dynamic_shapes={"samples_BT": {0: torch.export.Dim("batch"), 1: torch.export.Dim("samples", min=rate // 10)}},
        input_names=["samples"],
        output_names=["layers"],
        verbose=False,
    )


@contextlib.contextmanager
def _in_one_line(name: str) -> Iterator[None]:
    """Keep the exporter and the runtime silent, which tell of what nobody asked, and tell their errors in one line."""
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
    except Exception as problem:  # theirs have no kind in common
        reason = " ".join(str(problem).split()) or type(problem).__name__
        raise UsageError(f"{name}: cannot be written as ONNX ({reason[:200]})") from None
    finally:
        logging.disable(before)


class _Plain(nn.Module):
    """An encoder that is called with samples only."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, samples_BT: Tensor) -> Tensor:
        return self.encoder(samples_BT)


@torch.inference_mode()
def _compare(frozen: nn.Module, path: Path, card: Card) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # it writes past Python's streams
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    for clips, samples in ((1, card.sample_rate), (3, card.sample_rate * 3 // 2 + 7)):
        sound_BT = _sound(clips, samples)
        theirs = torch.from_numpy(session.run(["layers"], {"samples": sound_BT.numpy()})[0])
        ours = frozen(sound_BT)
        if theirs.shape != ours.shape or not torch.allclose(theirs, ours, atol=TOLERANCE, rtol=TOLERANCE):
            raise StoreError(f"{card.name}: the ONNX file's layers are not the encoder's, so it was removed; tell us")


def _sound(clips: int, samples: int) -> Tensor:
    return 0.1 * torch.randn(clips, samples, generator=torch.Generator().manual_seed(0))


def _readme(encoder: Encoder) -> str:
    card = encoder.card
    return (
        f"# {card.name} as ONNX\n\nWritten by `carrara export --format onnx`.\n\n"
        f"- input `samples`: float32 [batch, samples], mono, {card.sample_rate} Hz\n"
        f"- output `layers`: float32 [batch, {card.num_layers + 1}, frames, {card.dim}]; row 0 is the input to layer 1\n"
        f"- trained on: {', '.join(card.trained_on) or 'not stated'}; licence of the weights: "
        f"{card.license or 'not stated'}; paper: {card.paper or 'none'}\n"
    )
