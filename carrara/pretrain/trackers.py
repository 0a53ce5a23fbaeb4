"""Where the numbers of a run go besides `metrics.jsonl`: TensorBoard, trackio and Weights & Biases.

A tracker gets the lines of the log as they are written. TensorBoard can take back the lines after a step, which a
resumed or rolled-back run does; the others keep what they were given first, so steps that they have are not sent again.
Trackio and Weights & Biases read their own environment variables (`TRACKIO_DIR`, `TRACKIO_SPACE_ID`, `WANDB_MODE`); the
project is called carrara, the run after its folder.
"""

from __future__ import annotations

import contextlib
import io
import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from carrara.core.errors import StoreError, UsageError, did_you_mean
from carrara.core.io import write_text

PROJECT = "carrara"
NONE = "none"
RUN_ID = "run-id"


class Tracker(ABC):
    """Takes the numbers of a run.

    Attributes:
        package: that it needs; also its folder in the run's.
        extra: of Carrara that installs the package.
    """

    package: str
    extra: str

    @abstractmethod
    def __init__(self, folder: Path, step: int, last_step: int, config: Mapping[str, Any]) -> None:
        """Open the tracker of a run.

        Args:
            folder: of the run, existing or not.
            step: that the run continues from.
            last_step: the last step that the log had before; later ones are new to the tracker.
            config: the resolved recipe.
        """

    @abstractmethod
    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Add numbers by name at a step."""

    def log_event(self, text: str, step: int) -> None:  # noqa: B027 - most show numbers alone
        """Add an event of the log at a step."""

    @abstractmethod
    def close(self) -> None:
        """Write what is not yet written."""


class _TensorBoard(Tracker):
    package, extra = "tensorboard", "tensorboard"

    def __init__(self, folder: Path, step: int, last_step: int, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(folder / self.package, purge_step=step + 1)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def log_event(self, text: str, step: int) -> None:
        self._writer.add_text("events", text, step)

    def close(self) -> None:
        self._writer.close()


class _AppendOnly(Tracker):
    """A tracker that cannot take back a line; `run` has `log(numbers, step)` and `finish()`."""

    def __init__(self, folder: Path, step: int, last_step: int, config: Mapping[str, Any]) -> None:
        self._last_step = last_step
        # The package greets and says goodbye on standard output, which is the command's own.
        self._output = io.StringIO()
        with contextlib.redirect_stdout(self._output):
            self._run = self.open_run(folder, config)

    @abstractmethod
    def open_run(self, folder: Path, config: Mapping[str, Any]) -> Any:
        """Return the package's run, the former one where the folder was tracked before."""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        if step > self._last_step:
            self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        with contextlib.redirect_stdout(self._output):
            self._run.finish()


class _Trackio(_AppendOnly):
    package, extra = "trackio", "trackio"

    def open_run(self, folder: Path, config: Mapping[str, Any]) -> Any:
        import trackio

        name = f"{folder.resolve().name}-{_run_id(folder / self.package)}"
        return trackio.init(PROJECT, name=name, config=dict(config), resume="allow", embed=False)

    def close(self) -> None:
        import trackio

        # Unlike the run's own `finish`, this leaves nothing to say when Python exits.
        with contextlib.redirect_stdout(self._output):
            trackio.finish()


class _Wandb(_AppendOnly):
    package, extra = "wandb", "wandb"

    def open_run(self, folder: Path, config: Mapping[str, Any]) -> Any:
        import wandb

        return wandb.init(
            project=PROJECT,
            name=folder.resolve().name,
            id=_run_id(folder / self.package),
            dir=folder,
            config=dict(config),
            resume="allow",
            settings=wandb.Settings(silent=True),
        )

    def close(self) -> None:
        import wandb

        super().close()
        # The process behind a finished run loses all that a second run of the same id in this process logs: seen with
        # wandb 0.31. Someone's own run, if there is one, goes on.
        if wandb.run is None:
            wandb.teardown()


TRACKERS: dict[str, type[Tracker]] = {kind.package: kind for kind in (_TensorBoard, _Trackio, _Wandb)}


def check_trackers(names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the trackers to use; None means TensorBoard where it is installed.

    Raises:
        UsageError: there is no such tracker, or its package is not installed.
    """
    if names is None:
        return ("tensorboard",) if find_spec("tensorboard") else ()
    for name in names:
        if name != NONE and name not in TRACKERS:
            known = (*TRACKERS, NONE)
            raise UsageError(f"--tracker {name}: no such tracker.{did_you_mean(name, known)} {', '.join(known)}.")
        if name != NONE and not find_spec(TRACKERS[name].package):
            extra = TRACKERS[name].extra
            raise UsageError(f"--tracker {name} needs {TRACKERS[name].package}; pip install 'carrara[{extra}]'")
    return tuple(dict.fromkeys(name for name in names if name != NONE))


def open_trackers(
    names: Sequence[str], folder: Path, step: int, last_step: int, config: Mapping[str, Any]
) -> list[Tracker]:
    """Return the trackers of these names, open; arguments as for `Tracker`.

    Raises:
        UsageError: a tracker cannot be opened, for example without a login; the message says why.
    """
    trackers = []
    for name in names:
        try:
            trackers.append(TRACKERS[name](folder, step, last_step, config))
        except StoreError:
            raise
        except Exception as problem:  # their exceptions have no common base class
            reason = " ".join(str(problem).split())[:200] or type(problem).__name__
            raise UsageError(
                f"--tracker {name}: cannot be opened ({reason}); leave it out with --tracker none"
            ) from None
    return trackers


def _run_id(folder: Path) -> str:
    """Return the id of a tracked run, drawn when it is tracked first; a folder that starts anew gets another."""
    path = folder / RUN_ID
    if not path.exists():
        write_text(path, secrets.token_hex(4) + "\n")
    return path.read_text(encoding="utf-8").strip()
