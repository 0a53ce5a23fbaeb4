"""The journal of a run: one JSON object a line, averaged over the steps since the line before; TensorBoard beside it.

Keys: `step` (done so far), `steps` (that the line averages), `loss` (nats a frame asked for); for each label set
`loss/NAME`, `accuracy/NAME` of masked frames, `codes/NAME` (classes predicted at least once), `perplexity/NAME` (of
what was predicted) and `perplexity_target/NAME`; for each CQT `error/NAME`, `relative/NAME` (error over that of
predicting the mean) and `deviation/target/NAME`, `deviation/prediction/NAME` (over frames, mean over values);
`penalty`, `gradient_norm`, `clipped` (share of steps), `skipped` (steps not taken), `missing` (crops that could not be
read), `rank/cnn`, `rank/0` … `rank/last` (effective rank of the features) and `attention_logit` (the largest),
`loss_scale` (in float16), `learning_rate`, `audio_seconds_per_second`, `seconds` (of the whole run so far).

Between them stand events: `event` (`started`, `skipped`, `rolled back`, `probe failed`), `step`, and why; the first
line of a run that did not start from random weights says from what (see start.py). Where a run went back, the lines of
the steps that are undone are taken out, the events stay. A line of probes has `step` and `probes`: by the question's
name its `score`, `low` and `high` (95 %), `metric` and `seconds`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from carrara.core.errors import StoreError
from carrara.core.io import write_text
from carrara.pretrain.objective import Losses

NAME = "journal.jsonl"
STARTED, SKIPPED, ROLLED_BACK, PROBE_FAILED = "started", "skipped", "rolled back", "probe failed"
PROBES = "probes"


def read(path: Path) -> list[dict[str, Any]]:
    """Return the measurements of a journal; a last line that was cut short is left out."""
    return [line for line in _lines(path) if "event" not in line and PROBES not in line]


def events(path: Path) -> list[dict[str, Any]]:
    """Return the events of a journal."""
    return [line for line in _lines(path) if "event" in line]


def probed(path: Path) -> list[dict[str, Any]]:
    """Return the lines of probes of a journal."""
    return [line for line in _lines(path) if PROBES in line]


def _lines(path: Path) -> list[dict[str, Any]]:
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


class Journal:
    """Appends lines; opened at a step, it first forgets what was written after it."""

    def __init__(self, folder: Path, step: int, silent: bool = False) -> None:
        """Open the journal of a run that goes on from a step; a silent one writes nothing, on ranks but the first.

        Raises:
            StoreError: it cannot be written.
        """
        self.path, self.silent = folder / NAME, silent
        self.board: Any = None
        if not silent:
            self.go_back(step)

    def go_back(self, step: int) -> None:
        """Forget what was measured after a step, and the events after it that no roll-back has undone.

        Raises:
            StoreError: it cannot be written.
        """
        if self.silent:
            return
        lines = _lines(self.path)
        undone = [
            place for place, line in enumerate(lines) if line.get("event") == ROLLED_BACK and line["step"] <= step
        ]
        kept = [
            line
            for place, line in enumerate(lines)
            if line["step"] <= step or ("event" in line and place < max(undone, default=-1))
        ]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self.close()
        if find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(self.path.parent / "tensorboard", purge_step=step + 1)

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line.

        Raises:
            StoreError: it cannot be written.
        """
        if self.silent:
            return
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
        except OSError as problem:
            raise StoreError(f"{self.path}: cannot write here ({problem.strerror}); make room and resume") from None
        if not self.board:
            return
        if "event" in line:
            self.board.add_text("beat_tracking", json.dumps(line), line["step"])
            return
        if PROBES in line:
            for name, found in line[PROBES].items():
                self.board.add_scalar(f"probe/{name}", found["score"], line["step"])
            return
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
    clips: int = 0
    audio_seconds: float = 0.0
    norm: float = 0.0
    parts: dict[str, Tensor] = field(default_factory=dict)
    predicted: dict[str, Tensor] = field(default_factory=dict)
    wanted: dict[str, Tensor] = field(default_factory=dict)
    spread: dict[str, Tensor] = field(default_factory=dict)

    def took(self, norm: float, clip: float) -> None:
        """Count a step that was taken."""
        self.norm += norm
        self.clipped += bool(clip) and norm > clip

    def add(self, losses: Losses) -> None:
        """Add what a step found."""
        self.frames += losses.frames
        self.masked += losses.masked
        self.clips += losses.clips
        whole = {"answers": losses.answers, "penalty": losses.penalty}
        _add(self.parts, {name: part.double() for name, part in {**whole, **losses.parts}.items()})
        _add(self.predicted, losses.predicted)
        _add(self.wanted, losses.wanted)
        _add(self.spread, losses.spread)

    def on_cpu(self) -> Tally:
        """Bring the sums to the CPU, and return itself."""
        for found in (self.parts, self.predicted, self.wanted, self.spread):
            found.update({name: value.cpu() for name, value in found.items()})
        return self

    def line(self) -> dict[str, float]:
        """Return the averages; those of losses are left out where no step was taken."""
        taken = self.steps - self.skipped
        found: dict[str, float] = {"steps": self.steps, "skipped": self.skipped, "missing": self.missing}
        if not self.masked or not taken:
            return found
        parts = {name: float(part) for name, part in self.parts.items()}
        found["loss"] = parts["answers"] / self.frames + parts["penalty"] / self.clips
        found["penalty"] = parts["penalty"] / self.clips
        for name, counts in self.predicted.items():
            asked = max(parts[f"asked/{name}"], 1)
            found[f"loss/{name}"] = parts[f"loss/{name}"] / asked
            found[f"accuracy/{name}"] = parts[f"correct/{name}"] / asked
            found[f"codes/{name}"] = int((counts > 0).sum())
            found[f"perplexity/{name}"] = _perplexity(counts)
            found[f"perplexity_target/{name}"] = _perplexity(self.wanted[name])
        for name in (key.removeprefix("error/") for key in parts if key.startswith("error/")):
            found[f"error/{name}"] = parts[f"error/{name}"] / self.masked
            found[f"relative/{name}"] = parts[f"error/{name}"] / max(parts[f"baseline/{name}"], 1e-12)
        for name, (counts, sums, squares) in self.spread.items():
            variance = squares / counts - (sums / counts).square()
            found[f"deviation/{name}"] = float(variance.clamp(min=0).sqrt().mean())
        return found | {"gradient_norm": self.norm / taken, "clipped": self.clipped / taken}


def together(tallies: Sequence[Tally]) -> Tally:
    """Return what all ranks found; what each of them knows of the whole is the first one's."""
    whole = tallies[0]
    for tally in tallies[1:]:
        for name in ("missing", "frames", "masked", "clips", "audio_seconds"):
            setattr(whole, name, getattr(whole, name) + getattr(tally, name))
        for name in ("parts", "predicted", "wanted", "spread"):
            _add(getattr(whole, name), getattr(tally, name))
    return whole


def _add(sums: dict[str, Tensor], more: Mapping[str, Tensor]) -> None:
    for name, value in more.items():
        sums[name] = sums[name] + value if name in sums else value


def _perplexity(counts: Tensor) -> float:
    shares = counts.double() / counts.sum().clamp(min=1)
    return float(torch.exp(-torch.xlogy(shares, shares).sum()))
