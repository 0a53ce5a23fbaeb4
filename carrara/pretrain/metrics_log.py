"""The log of a run, `metrics.jsonl`: one JSON object a line with means over the steps since the last line.

Keys of every run: `step` (steps done), `steps` (averaged by the line), `loss`, `gradient_norm`, `clipped_fraction` (of
the steps), `skipped` (steps not taken), `missing` (crops that could not be read), `loss_scale` (float16 only),
`learning_rate`, `audio_hours_per_hour` (of all ranks), `flops_per_second` (of all ranks: products of the forward and
backward pass, counted at the first step), `mfu` (model FLOPs utilisation: that rate over the peak of the GPUs, where
it is known; half precision only), `data_wait_fraction` (of the time, waiting for crops), `eta_seconds` (to the end of
the run), `seconds` (of the whole run).

Keys of masked prediction, whose loss is in nats per predicted frame: of each label set `loss/NAME`, `accuracy/NAME` of
masked frames, `classes_used/NAME` (classes predicted at least once), `perplexity/NAME` of the predictions and
`perplexity_target/NAME`, of each target with values `mse/NAME`, `relative_mse/NAME` (over the error of predicting the
mean), `std/target/NAME` and `std/prediction/NAME` (over frames, mean over values); `penalty`, `rank/cnn`, `rank/0` …
`rank/last` (effective rank of the features), `attention_logit` (the largest). The codec, training on tags and joint
embedding document their keys in objectives/codec.py, objectives/tagging.py and objectives/joint_embedding.py.

Events are lines with `event` (`started`, `changed`, `skipped`, `rolled back`, `probe failed`), `step` and the reason;
`started` says which weights a run started from (see initialize.py), `changed` which setting a resumed run has changed
(`setting`, `was`, `now`). After a roll-back the lines of the undone steps are removed, events stay. A line of probes
has `step` and `probes`: by task `score`, `low` and `high` (95 %), `metric`, `seconds`.

TensorBoard gets the same numbers in `tensorboard/` where it is installed, other trackers on request (trackers.py).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carrara.core.errors import StoreError
from carrara.core.io import write_text
from carrara.core.strict_json import parse_json_object
from carrara.pretrain.trackers import Tracker, open_trackers

if TYPE_CHECKING:
    from torch import Tensor

LOG_FILE = "metrics.jsonl"
STARTED, CHANGED, SKIPPED, ROLLED_BACK = "started", "changed", "skipped", "rolled back"
PROBE_FAILED = "probe failed"
PROBES = "probes"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log that hold metrics; lines that are no objects with a step are left out."""
    return [line for line in _read_lines(path) if "event" not in line and PROBES not in line]


def read_events(path: Path) -> list[dict[str, Any]]:
    """Return the events of a log."""
    return [line for line in _read_lines(path) if "event" in line]


def read_probes(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log that hold probes."""
    return [line for line in _read_lines(path) if PROBES in line]


def _read_lines(path: Path) -> list[dict[str, Any]]:
    lines = []
    # A damaged line costs itself: the others are worth keeping, and a run must be able to go on.
    for text in path.read_bytes().split(b"\n") if path.is_file() else []:
        with suppress(ValueError):
            line = parse_json_object(text)
            if isinstance(line.get("step"), int) and isinstance(line.get(PROBES, {}), dict):
                lines.append(line)
    return lines


class MetricsLog:
    """Appends lines to a log; opened at a step, it first removes the lines after that step."""

    def __init__(
        self,
        folder: Path,
        step: int,
        silent: bool = False,
        trackers: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Open the log of a run.

        Args:
            folder: of the run.
            step: that the run continues from.
            silent: whether nothing is written, as on ranks other than 0.
            trackers: names of those that get the lines too (trackers.py).
            config: the resolved recipe, for the trackers.

        Raises:
            StoreError: it cannot be written.
            UsageError: a tracker cannot be opened.
        """
        self.path, self.silent, self._tracker_names = folder / LOG_FILE, silent, tuple(trackers)
        self._config = dict(config or {})
        self.trackers: list[Tracker] = []
        if not silent:
            self.rewind(step)

    def rewind(self, step: int) -> None:
        """Remove the metrics after a step, and the events after it unless a roll-back has undone them already.

        Raises:
            StoreError: the log cannot be written.
            UsageError: a tracker cannot be opened.
        """
        if self.silent:
            return
        lines = _read_lines(self.path)
        rollbacks = [i for i, line in enumerate(lines) if line.get("event") == ROLLED_BACK and line["step"] <= step]
        last_rollback = max(rollbacks, default=-1)
        kept = [
            line
            for index, line in enumerate(lines)
            if line["step"] <= step or ("event" in line and index < last_rollback)
        ]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self.close()
        last_step = max((line["step"] for line in lines if "event" not in line), default=-1)
        self.trackers = open_trackers(self._tracker_names, self.path.parent, step, last_step, self._config)

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
            raise StoreError(
                f"{self.path}: cannot write here ({problem.strerror}); make room and go on with --resume"
            ) from None
        if "event" in line:
            for tracker in self.trackers:
                tracker.log_event(json.dumps(line), line["step"])
            return
        scores = {f"probe/{name}": probe["score"] for name, probe in line.get(PROBES, {}).items()}
        for tracker in self.trackers:
            tracker.log(scores or {key: value for key, value in line.items() if key != "step"}, line["step"])

    def close(self) -> None:
        """Close the trackers."""
        for tracker in self.trackers:
            tracker.close()
        self.trackers = []


@dataclass
class MetricAverager:
    """Means of metrics over the steps since the last line of the log.

    Attributes:
        started: time of the first step, of the monotonic clock.
        steps: steps since the last line.
        skipped: steps among them that were not taken.
        missing: crops that could not be read.
        audio_seconds: duration of the crops of the steps taken.
        waiting: seconds of waiting for crops.
        sums: sums of metrics over the steps taken.
        totals: sums of the losses of this rank over the steps taken, by name.
    """

    started: float = field(default_factory=time.monotonic)
    steps: int = 0
    skipped: int = 0
    missing: int = 0
    audio_seconds: float = 0.0
    waiting: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    totals: dict[str, Tensor] = field(default_factory=dict)

    def add(self, metrics: Mapping[str, float]) -> None:
        """Add the metrics of a step that was taken."""
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        """Return the counts, and the mean of each metric over the steps taken."""
        taken = self.steps - self.skipped
        counts: dict[str, float] = {"steps": self.steps, "skipped": self.skipped, "missing": self.missing}
        return counts | {name: value / taken for name, value in self.sums.items()}
