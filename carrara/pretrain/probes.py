"""Questions that a training asks its encoder on the way, every so many steps, without changing what is learnt.

Who asks is handed down from above: pre-training knows no benchmark. It hears a copy of the encoder in evaluation mode,
and whatever it draws or sets (the generators of torch, NumPy and Python, the number of threads) is put back, so that a
run with probes has bit for bit the weights of one without. Its answers are one line of the journal, written whole: a
run that was killed or stopped in the middle of a probe asks again when it goes on. Of several ranks the first one asks.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from carrara.core.errors import CarraraError, UsageError
from carrara.encoders._base import Encoder
from carrara.encoders._hubert.network import HubertEncoder
from carrara.formats.weights import load_strictly, tensors_identity
from carrara.pretrain.fsdp import whole
from carrara.pretrain.log_plot import draw
from carrara.pretrain.metrics_log import NAME, PROBE_FAILED, PROBES, probed

if TYPE_CHECKING:
    from carrara.pretrain.state import Run

# An encoder → by the question's name its "score", "low" and "high" (95 %), "metric" and "seconds".
Probe = Callable[[Encoder], Mapping[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Probes:
    """Who asks (none: nobody), and every how many steps; before the first step and after the last one too."""

    ask: Probe | None = None
    every: int = 500

    def __post_init__(self) -> None:
        if self.every < 1:
            raise UsageError(f"--probe-every {self.every}: give a number of steps, at least 1")

    def due(self, step: int, steps: int) -> bool:
        """Return whether it is time after so many steps of a run."""
        return self.ask is not None and (step % self.every == 0 or step == steps)


def look(run: Run, interrupted: threading.Event) -> bool:
    """Ask, unless the journal has the answers of this step; return whether Ctrl-C or SIGTERM put an end to it.

    A probe that fails is an event of the journal, and the training goes on.

    Raises:
        StoreError: the journal or its picture cannot be written.
        CarraraError: another rank is gone.
    """
    if run.ranks.lead(lambda: any(line["step"] == run.step for line in probed(run.folder / NAME))):
        return False
    encoder = frozen(run)

    def ask() -> bool:
        assert run.probes.ask is not None
        try:
            with _at_once(interrupted), undisturbed():
                line: dict[str, Any] = {PROBES: run.probes.ask(encoder)}
        except KeyboardInterrupt:
            return True
        except CarraraError as problem:
            warnings.warn(f"step {run.step}: no probe ({problem}); the training goes on", stacklevel=2)
            line = {"event": PROBE_FAILED, "why": str(problem)}
        run.journal.write({"step": run.step, **line})
        draw(run.folder)
        return False

    stopped = run.ranks.lead(ask)
    if stopped:
        interrupted.set()
    return stopped


def frozen(run: Run) -> Encoder:
    """Return a copy of the encoder as it is now, in evaluation mode; where weights are divided, all ranks must ask."""
    live = run.model.encoder
    tensors = {name: whole(tensor.detach()).clone() for name, tensor in live.state_dict().items()}
    with torch.device("meta"):
        copy = HubertEncoder(live.settings, live.card)
    load_strictly(copy, tensors, live.card.name)
    copy.card = live.card.model_copy(update={"weights_sha256": tensors_identity(tensors) if run.ranks.first else ""})
    return copy.eval()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Put back the generators, the number of threads and the gradient's mode; within it no progress is shown."""
    python, arrays, threads = random.getstate(), np.random.get_state(), torch.get_num_threads()  # noqa: NPY002 - not ours
    bars = os.environ.get("CARRARA_PROGRESS")
    # The training's own bar is on the screen already.
    os.environ["CARRARA_PROGRESS"] = "0"
    try:
        with torch.random.fork_rng(), torch.set_grad_enabled(True):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)  # noqa: NPY002 - not ours
        torch.set_num_threads(threads)
        del os.environ["CARRARA_PROGRESS"]
        if bars is not None:
            os.environ["CARRARA_PROGRESS"] = bars


@contextmanager
def _at_once(interrupted: threading.Event) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM interrupt at once: unlike a step, a probe has nothing that must be brought to its end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
