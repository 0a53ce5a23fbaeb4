"""The best constant answer to a task, in place of a probe, for an encoder whose features are the same for all audio.

Task types compute it from the training truths (`ProbeTaskType.constant`). Source separation gives each stem the mixture
times one number, the least-squares one over the training songs, before any masks or filters.

Letters: J stems, U clips.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from carrara.bench.protocols._base import Predictor, Protocol, ProtocolInputs, ProtocolResult, probe_windows
from carrara.bench.split_data import SplitData
from carrara.bench.task_types._base import Prediction, ProbeTaskType, TaskType
from carrara.core.task import Task
from carrara.encoders._base import Card
from carrara.features.windows import WindowSpec


@dataclass(frozen=True)
class ConstantPredictor(Predictor):
    """Predicts the same for every clip, whatever the seed."""

    inputs: ProtocolInputs

    def predict(self, split: SplitData) -> list[list[Prediction]]:
        """Return for each seed the same predictions."""
        inputs = self.inputs
        if isinstance(inputs.task_type, ProbeTaskType):
            counts_U = [len(rows) for rows in split.rows_U]
            predictions = inputs.task_type.constant(inputs.task, inputs.train.truths, counts_U, split.frame_rate)
        else:
            predictions = _scaled_mixtures(inputs, split)
        return [predictions] * len(inputs.seeds)


def answer_constantly(protocol: Protocol) -> Protocol:
    """Return the protocol with the constant answer in place of its probe; what it refuses stays refused."""

    def window_spec(task: Task, task_type: TaskType, card: Card, settings: Any) -> WindowSpec | None:
        own = protocol.window_spec(task, task_type, card, settings)
        # The answer needs the numbers of windows or frames even where the protocol reads audio.
        return probe_windows(task, task_type.frame_level) if isinstance(task_type, ProbeTaskType) else own

    return replace(protocol, window_spec=window_spec, run=_run)


def _run(inputs: ProtocolInputs) -> ProtocolResult:
    chosen = ({"layer": "constant"},) * len(inputs.seeds)
    return ProtocolResult(ConstantPredictor(inputs), tried=0, grid=(), chosen=chosen)


def _scaled_mixtures(inputs: ProtocolInputs, split: SplitData) -> list[dict[str, float]]:
    """Return the SDR of each stem of each song where the estimate is the mixture times a number."""
    from carrara.bench.separation.evaluate import SDRAccumulator, iter_windows
    from carrara.bench.separation.songs import load_songs
    from carrara.bench.separation.window_encoder import WindowEncoder

    task = inputs.task
    assert task.window_seconds is not None  # the constrained protocol refuses it
    window_format = WindowEncoder(inputs.encoder, task.window_seconds, inputs.device).window_format
    with_stem_J, with_mixture = np.zeros(len(task.labels)), 0.0
    for windows in iter_windows(load_songs(task, inputs.train.clips), window_format):
        for mixture_CT, stems_JCT, valid in zip(windows.mixture_BCT, windows.stems_BJCT, windows.valid_B):
            mixture_CT = mixture_CT[..., :valid].astype(np.float64)
            with_stem_J += windows.channels * np.einsum("jct,ct->j", stems_JCT[..., :valid], mixture_CT)
            with_mixture += windows.channels * float(np.square(mixture_CT).sum())
    gain_J = with_stem_J / max(with_mixture, np.finfo(np.float64).tiny)
    songs = load_songs(task, split.clips)
    sums = SDRAccumulator(len(songs), len(task.labels))
    for windows in iter_windows(songs, window_format):
        estimates_BJCT = gain_J[:, None, None] * windows.mixture_BCT[:, None]
        sums.add(windows, torch.from_numpy(estimates_BJCT.astype(np.float32)))
    names = [f"sdr_{stem}" for stem in task.labels]
    return [dict(zip(names, map(float, sdr_J))) for sdr_J in sums.sdr_UJ()]
