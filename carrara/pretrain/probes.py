"""Probes of the encoder during training, every so many steps, without any effect on the training.

The probe is a function of the caller: pre-training imports no benchmark. It gets a copy of the encoder in evaluation
mode, and the generators of torch, NumPy and Python and the number of threads are restored after it, so a run with
probes has bit for bit the weights of one without. Its scores are one line of the log, written whole: a run that was
stopped in a probe repeats it when resumed. Only rank 0 probes.
"""

from __future__ import annotations

import os
import random
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from carrara.core.errors import CarraraError
from carrara.encoders._base import Encoder
from carrara.formats.weights import hash_tensors
from carrara.pretrain.distributed import full_tensor
from carrara.pretrain.log_plot import plot_log
from carrara.pretrain.metrics_log import LOG_FILE, PROBE_FAILED, PROBES, read_probes
from carrara.pretrain.process import interrupt_at_once
from carrara.pretrain.state import Run


def run_probes(run: Run, interrupted: threading.Event) -> bool:
    """Probe unless the log has this step's probe; return whether Ctrl-C or SIGTERM interrupted it.

    A probe that fails is an event of the log, and the training continues.

    Raises:
        StoreError: the log or its picture cannot be written.
        CarraraError: another rank is gone.
    """
    if run.dist.on_rank_zero(lambda: any(line["step"] == run.step for line in read_probes(run.folder / LOG_FILE))):
        return False
    encoder = eval_copy(run)

    def probe_and_log() -> bool:
        assert run.probe is not None
        try:
            with interrupt_at_once(interrupted), preserve_rng():
                line: dict[str, Any] = {PROBES: run.probe(encoder)}
        except KeyboardInterrupt:
            return True
        except CarraraError as problem:
            warnings.warn(f"step {run.step}: no probe ({problem}); the training continues", stacklevel=2)
            line = {"event": PROBE_FAILED, "why": str(problem)}
        run.log.write({"step": run.step, **line})
        plot_log(run.folder)
        return False

    stopped = run.dist.on_rank_zero(probe_and_log)
    if stopped:
        interrupted.set()
    return stopped


def eval_copy(run: Run) -> Encoder:
    """Return a copy of the encoder in evaluation mode; where weights are sharded, all ranks must call this."""
    encoder = run.objective.encoder
    assert encoder is not None
    tensors = {name: full_tensor(tensor.detach()) for name, tensor in encoder.state_dict().items()}
    copy = run.objective.encoder_copy(tensors)
    sha256 = hash_tensors(copy.state_dict()) if run.dist.is_main else ""
    copy.card = copy.card.model_copy(update={"weights_sha256": sha256})
    return copy


@contextmanager
def preserve_rng() -> Iterator[None]:
    """Restore the random generators, number of threads and gradient mode at the end; hide progress bars meanwhile."""
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - a user's own code may
    threads, progress = torch.get_num_threads(), os.environ.get("CARRARA_PROGRESS")
    # The training's own bar is on the screen already.
    os.environ["CARRARA_PROGRESS"] = "0"
    try:
        with torch.random.fork_rng(), torch.set_grad_enabled(True):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002 - a user's own code may
        torch.set_num_threads(threads)
        del os.environ["CARRARA_PROGRESS"]
        if progress is not None:
            os.environ["CARRARA_PROGRESS"] = progress
