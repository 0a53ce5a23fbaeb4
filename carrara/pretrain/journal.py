"""The journal of a run: one JSON object a line, averaged over the steps since the line before; TensorBoard beside it.

Keys: `step` (done so far), `steps` (that the line averages), `loss` (nats a frame asked for); for each label set
`loss/NAME`, `accuracy/NAME` of masked frames and `codes/NAME` (classes predicted at least once); for each CQT
`error/NAME` and `relative/NAME` (error over that of predicting the mean); `penalty`, `gradient_norm`, `clipped` (share
of steps), `skipped` (steps that were not finite), `missing` (crops that could not be read), `rank/cnn` and `rank/last`
(effective rank of the features), `learning_rate`, `audio_seconds_per_second`, `seconds` (of the whole run so far).

Letters: B batch, F frames, D width.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from carrara.core.errors import StoreError
from carrara.core.files import write_text
from carrara.pretrain.objective import Losses

NAME = "journal.jsonl"
RANK_FRAMES = 1024


def read(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a journal; a last line that was cut short is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


class Journal:
    """Appends lines; opened at a step, it first forgets what was written after it."""

    def __init__(self, folder: Path, step: int) -> None:
        """Open the journal of a run that goes on from a step.

        Raises:
            StoreError: it cannot be written.
        """
        self.path = folder / NAME
        kept = [line for line in read(self.path) if line["step"] <= step]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self.board = None
        if find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line.

        Raises:
            StoreError: it cannot be written.
        """
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
        except OSError as problem:
            raise StoreError(f"{self.path}: cannot write here ({problem.strerror}); make room and resume") from None
        if self.board:
            for key, value in line.items():
                self.board.add_scalar(key, value, line["step"])

    def close(self) -> None:
        """Let go of TensorBoard's file."""
        if self.board:
            self.board.close()


@dataclass
class Tally:
    """What happened since the last line; sums stay on the device until the line is made."""

    began: float = field(default_factory=time.monotonic)
    steps: int = 0
    skipped: int = 0
    clipped: int = 0
    missing: int = 0
    frames: int = 0
    masked: int = 0
    audio_seconds: float = 0.0
    norm: float = 0.0
    parts: dict[str, Tensor] = field(default_factory=dict)
    predicted: dict[str, Tensor] = field(default_factory=dict)

    def add(self, losses: Losses, norm: float, clip: float) -> None:
        """Count a step that was taken."""
        self.frames += losses.frames
        self.masked += losses.masked
        self.norm += norm
        self.clipped += bool(clip) and norm > clip
        for name, part in {"loss": losses.total.detach(), **losses.parts}.items():
            self.parts[name] = self.parts.get(name, 0) + part.double()
        for name, counts in losses.predicted.items():
            self.predicted[name] = self.predicted.get(name, 0) + counts

    def line(self) -> dict[str, float]:
        """Return the averages; those of losses are left out where no step was taken."""
        taken = self.steps - self.skipped
        found: dict[str, float] = {"steps": self.steps, "skipped": self.skipped, "missing": self.missing}
        if not self.masked:
            return found
        for name, part in self.parts.items():
            kind, _, what = name.partition("/")
            if kind == "baseline":
                found[f"relative/{what}"] = float(self.parts[f"error/{what}"] / part.clamp(min=1e-12))
            else:
                count = self.frames if name == "loss" else self.masked
                found[f"accuracy/{what}" if kind == "correct" else name] = float(part) / count
        found |= {f"codes/{name}": int((counts > 0).sum()) for name, counts in self.predicted.items()}
        return found | {"gradient_norm": self.norm / taken, "clipped": self.clipped / taken}


def effective_rank(features_BFD: Tensor) -> float:
    """Return exp of the entropy of the singular values' shares (RankMe, Garrido et al. 2023) of the centred frames.

    Frames that are not finite are left out; 0 where none is.
    """
    rows_ND = features_BFD.detach().flatten(0, -2).float()
    rows_ND = rows_ND[rows_ND.isfinite().all(dim=1)]
    if not len(rows_ND):
        return 0.0
    rows_ND = rows_ND[:: max(len(rows_ND) // RANK_FRAMES, 1)]
    values_D = torch.linalg.svdvals(rows_ND - rows_ND.mean(dim=0))
    shares_D = values_D / values_D.sum().clamp(min=1e-12)
    return float(torch.exp(-(shares_D * shares_D.clamp(min=1e-12).log()).sum()))
