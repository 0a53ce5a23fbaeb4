"""Fusion of encoders: features side by side, or predictions combined with weights from out-of-fold predictions.

`a+b` is one encoder to every protocol: layer i has the features of each part's layer of the same relative depth, side
by side as they are, window by window. Frames are those of the part with the fewest; the others give the frame at the
same time. Features come from the parts' own stores, so nothing is encoded twice.

`a+b:late` runs the protocol on each part alone. Then five folds of the training clips (whole groups in one fold): the
protocol runs on four of them, restricted to the layer that it chose on all, and gives logits of the fifth. Each part
gets one weight, not negative, that minimises the task's loss on these out-of-fold logits [wolpert1992]; the weighted
sum of the parts' logits, from the probes trained on all, is the prediction. No validation or test clip sets the
weights.

Letters: U clips, R rows, D features, E parts, K outputs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from carrara.bench.protocols._base import (
    Predictor,
    ProbePredictor,
    Protocol,
    ProtocolInputs,
    ProtocolResult,
    window_choice,
)
from carrara.bench.split_data import LabelledSplit, SplitData, monitored_score, predict
from carrara.bench.task_data import FeatureProvider, TaskData
from carrara.bench.task_types._base import Prediction, TaskType
from carrara.core.clip import SPLITS, Clip, Split
from carrara.core.errors import UsageError
from carrara.core.task import Task
from carrara.encoders._base import Card
from carrara.encoders._fused import FusedEncoder
from carrara.features.extract import Features
from carrara.features.windows import WindowSpec

FOLDS = 5
PART = "|"  # between a part's index and its layer's name, in the features of a late fusion


@dataclass(frozen=True)
class FusedMatrix:
    """Matrices side by side, read when rows are taken; `rows` has for each the row of each row, `[R]`."""

    matrices: Sequence[Any]
    rows: Sequence[np.ndarray]

    @property
    def shape(self) -> tuple[int, int]:
        """Return R and the sum of the matrices' D."""
        return len(self.rows[0]), sum(int(matrix.shape[1]) for matrix in self.matrices)

    @property
    def dtype(self) -> Any:
        """Return the type of the numbers."""
        return self.matrices[0].dtype

    def __len__(self) -> int:
        return len(self.rows[0])

    def __getitem__(self, rows_R: Any) -> np.ndarray:
        taken = [np.asarray(matrix[own[rows_R]]) for matrix, own in zip(self.matrices, self.rows)]
        return np.concatenate(taken, axis=-1)


@dataclass(frozen=True)
class FusedFeatures:
    """The features of clips by all parts, with the same members as `Features`."""

    matrices: Mapping[str, FusedMatrix]
    rows: list[slice]
    missing: dict[str, str]
    frame_rate: float | None

    @property
    def layers(self) -> tuple[str, ...]:
        """Return the names of the layers."""
        return tuple(self.matrices)

    def layer(self, name: str) -> FusedMatrix:
        """Return one layer."""
        return self.matrices[name]


@dataclass
class FusedProvider(FeatureProvider):
    """Clips, truths and features for a fusion of encoders."""

    _parts: list[FeatureProvider] = field(default_factory=list)

    def load(
        self,
        task: Task,
        task_type: TaskType,
        window_spec: WindowSpec | None,
        splits: Sequence[Split] = SPLITS,
    ) -> TaskData:
        """Return a task's usable clips with truths and features; see the base class.

        Raises:
            UsageError: the protocol reads audio.
        """
        if window_spec is None:
            raise UsageError(
                f"task {task.name!r}: {self.encoder.card.name} is a fusion of features, which this protocol does not "
                "read; leave the task out, or use --protocol constrained"
            )
        return super().load(task, task_type, window_spec, splits)

    def _extract(self, task: Task, window_spec: WindowSpec, clips: Sequence[Clip]) -> Any:
        fused = self.encoder
        assert isinstance(fused, FusedEncoder)
        if not self._parts:
            self._parts = [self.with_encoder(part, self.home) for part in fused.members()]
        by_part = [FeatureProvider._extract(part, task, window_spec, clips) for part in self._parts]
        rows, indices = _align(task, fused, by_part, clips)
        matrices: dict[str, FusedMatrix] = {}
        for index, features in enumerate(by_part if fused.is_late else []):
            matrices |= {
                f"{index}{PART}{name}": FusedMatrix([features.layer(name)], [indices[index]])
                for name in features.layers
            }
        for layer in [] if fused.is_late else range(fused.card.num_layers + 1):
            own = [features.layer(str(fused.layer_of(part, layer))) for part, features in enumerate(by_part)]
            matrices[str(layer)] = FusedMatrix(own, indices)
        missing = {name: why for features in reversed(by_part) for name, why in features.missing.items()}
        frame_rate = fused.card.frame_rate if window_spec.pool == "frames" else None
        return FusedFeatures(matrices, rows, missing, frame_rate)


def build_provider(encoder: Any, data_dir: Path | None, device: str, **options: Any) -> FeatureProvider:
    """Return the provider of an encoder, which may be a fusion."""
    kind = FusedProvider if isinstance(encoder, FusedEncoder) else FeatureProvider
    return kind(encoder, data_dir, device, **options)


def _align(
    task: Task, fused: FusedEncoder, by_part: Sequence[Features], clips: Sequence[Clip]
) -> tuple[list[slice], list[np.ndarray]]:
    """Return each clip's rows in the fusion, and for each part its own row of each of these.

    Raises:
        UsageError: the parts split a clip into unlike numbers of windows.
    """
    has_frames = all(features.frame_rate is not None for features in by_part)
    rows: list[slice] = []
    indices: list[list[np.ndarray]] = [[] for _ in by_part]
    end = 0
    for number, clip in enumerate(clips):
        counts = [features.rows[number].stop - features.rows[number].start for features in by_part]
        if len(set(counts)) > 1 and min(counts) and not has_frames:
            raise UsageError(
                f"task {task.name!r}: clip {clip.id} has {' and '.join(map(str, counts))} windows in the parts of "
                f"{fused.card.name}, whose longest inputs differ; use :late, or a task with window_seconds"
            )
        slowest = fused.slowest if has_frames else 0
        count = counts[slowest] if min(counts) else 0
        rows.append(slice(end, end + count))
        end += count
        for part, features in enumerate(by_part):
            own = np.arange(count)
            if count and has_frames and part != slowest:
                ratio = fused.members()[part].card.frame_rate / fused.card.frame_rate  # type: ignore[operator]
                own = np.minimum(((own + 0.5) * ratio).astype(np.int64), counts[part] - 1)
            indices[part].append(features.rows[number].start + own)
    return rows, [np.concatenate(own) if own else np.zeros(0, np.int64) for own in indices]


@dataclass(frozen=True)
class LateFusion(Predictor):
    """The parts' predictors with their weights, `[E]`, and the rule for windows, for each seed."""

    inputs: ProtocolInputs
    parts: Sequence[_InPart]
    weights_S: Sequence[np.ndarray]
    rules: Sequence[str]

    def predict(self, split: SplitData) -> list[list[Prediction]]:
        """Return for each seed one prediction for each clip."""
        task, task_type = self.inputs.task, self.inputs.probe_task_type
        state = task_type.fit(task, self.inputs.train.truths)
        predictions = []
        for seed, (weights_E, rule) in enumerate(zip(self.weights_S, self.rules)):
            rows, logits_RK = self.combine(split, seed, weights_E)
            predictions.append(predict(task, task_type, state, rows, logits_RK[None], rule)[0])
        return predictions

    def combine(self, split: SplitData, seed: int, weights_E: np.ndarray) -> tuple[SplitData, Tensor]:
        """Return the rows and the weighted sum of the parts' logits for them, `[R, K]`."""
        rows, logits = _part_logits(self.parts, split, seed)
        return rows, torch.einsum("e,erk->rk", torch.from_numpy(weights_E).to(logits.dtype), logits)


def fuse_late(protocol: Protocol) -> Protocol:
    """Return the protocol as a late fusion of the parts' features; what it refuses stays refused."""

    def window_spec(task: Task, task_type: TaskType, card: Card, settings: Any) -> WindowSpec | None:
        if not hasattr(task_type, "decode"):
            raise UsageError(f"task {task.name!r}: {task.task_type} has no logits to combine; use {card.name[:-5]}")
        return protocol.window_spec(task, task_type, card, settings)

    return replace(protocol, window_spec=window_spec, run=lambda inputs: _run_late(protocol, inputs))


def _run_late(protocol: Protocol, inputs: ProtocolInputs) -> ProtocolResult:
    started = time.perf_counter()
    fused, task, task_type = inputs.encoder, inputs.task, inputs.probe_task_type
    assert isinstance(fused, FusedEncoder)
    results, predictors = [], []
    for part in range(len(fused.members())):
        result = protocol.run(_part_inputs(inputs, part))
        if not isinstance(result.predictor, ProbePredictor):
            raise UsageError(
                f"task {task.name!r}: {protocol.name} gives no logits to combine; use --protocol constrained"
            )
        results.append(result)
        predictors.append(result.predictor)
    folds = _folds(inputs.train)
    weights_S, rules = [], []
    late = LateFusion(inputs, [_InPart(own, part) for part, own in enumerate(predictors)], (), ())
    for seed_index, seed in enumerate(inputs.seeds):
        loss_parts = []
        for fold in np.unique(folds):
            inside, outside = _take(inputs.train, folds != fold), _take(inputs.train, folds == fold)
            own = [
                _fold_predictor(protocol, inputs, inside, part, seed, results[part].chosen[seed_index]["layer"])
                for part in range(len(predictors))
            ]
            rows, logits = _part_logits([_InPart(each, part) for part, each in enumerate(own)], outside, 0)
            loss_parts.append((logits, _row_targets(inputs, rows, outside)))
        weights_E = fit_weights(task_type.loss, loss_parts)
        weights_S.append(weights_E)
        rows, logits_RK = late.combine(inputs.valid, seed_index, weights_E)
        by_row = LabelledSplit(rows.clips, rows.layers, rows.rows_U, rows.frame_rate, inputs.valid.truths)
        state = task_type.fit(task, inputs.train.truths)
        rules.append(monitored_score(task, task_type, state, by_row, logits_RK.nan_to_num()[None])[0][1])
    names = [part.card.name for part in fused.members()]
    chosen = tuple(
        {
            "layer": "late",
            "weights": dict(zip(names, map(float, weights_E))),
            "parts": {name: result.chosen[index] for name, result in zip(names, results)},
            **window_choice(task, rule),
        }
        for index, (weights_E, rule) in enumerate(zip(weights_S, rules))
    )
    return ProtocolResult(
        predictor=replace(late, weights_S=weights_S, rules=rules),
        tried=sum(result.tried for result in results),
        grid=tuple(
            point.model_copy(update={"layer": f"{name}{PART}{point.layer}"})
            for name, result in zip(names, results)
            for point in result.grid
        ),
        chosen=chosen,
        seconds={"late fusion": time.perf_counter() - started},
    )


def fit_weights(loss: Any, folds: Sequence[tuple[Tensor, Tensor]]) -> np.ndarray:
    """Return a weight for each part, not negative, with the least mean loss of the weighted sums of logits.

    Args:
        loss: (logits `[1, R, K]`, targets `[R, …]`) → `[1]`.
        folds: each the parts' logits `[E, R, K]` and the targets of the rows.
    """
    parts, rows = len(folds[0][0]), sum(logits.shape[1] for logits, _ in folds)

    def objective(weights_E: np.ndarray) -> tuple[float, np.ndarray]:
        weights = torch.tensor(weights_E, dtype=torch.float64, requires_grad=True)
        total = torch.zeros((), dtype=torch.float64)
        for logits_ERK, targets_R in folds:
            summed_RK = torch.einsum("e,erk->rk", weights, logits_ERK.double())
            total = total + loss(summed_RK[None], targets_R)[0] * (logits_ERK.shape[1] / rows)
        total.backward()
        assert weights.grad is not None
        return float(total.detach()), weights.grad.numpy()

    start = np.full(parts, 1 / parts)
    return np.asarray(minimize(objective, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * parts).x)


@dataclass(frozen=True)
class _InPart:
    """A part's predictor, which reads the part's own layers out of the fusion's."""

    predictor: ProbePredictor
    part: int

    def logits(self, seed: int, split: SplitData) -> tuple[SplitData, Tensor]:
        own = replace(split, layers=_part_layers(split.layers, self.part))
        return self.predictor.logits(self.predictor.probes[seed], own)


def _part_logits(parts: Sequence[Any], split: SplitData, seed: int) -> tuple[SplitData, Tensor]:
    """Return the rows of a split and the parts' logits for them, `[E, R, K]`."""
    own = [part.logits(seed, split) for part in parts]
    # A class that no training clip has is at minus infinity, which no weight should turn into NaN.
    return own[0][0], torch.stack([logits_RK.float().nan_to_num(neginf=-1e4) for _, logits_RK in own])


def _part_layers(layers: Mapping[str, Any], part: int) -> dict[str, Any]:
    start = f"{part}{PART}"
    return {name.removeprefix(start): matrix for name, matrix in layers.items() if name.startswith(start)}


def _part_inputs(inputs: ProtocolInputs, part: int) -> ProtocolInputs:
    assert isinstance(inputs.encoder, FusedEncoder)
    return replace(
        inputs,
        encoder=inputs.encoder.members()[part],
        train=replace(inputs.train, layers=_part_layers(inputs.train.layers, part)),
        valid=replace(inputs.valid, layers=_part_layers(inputs.valid.layers, part)),
    )


def _fold_predictor(
    protocol: Protocol, inputs: ProtocolInputs, inside: LabelledSplit, part: int, seed: int, layer: str
) -> ProbePredictor:
    """Return what the protocol trains on a part of the training clips, with the layer that it chose on all."""
    own = _part_inputs(replace(inputs, train=inside, seeds=(seed,)), part)
    layers = own.train.layers
    if layer in layers:
        layers = {layer: layers[layer]}
    own = replace(own, train=replace(own.train, layers=layers), valid=replace(own.valid, layers=layers))
    predictor = protocol.run(own).predictor
    assert isinstance(predictor, ProbePredictor)
    return predictor


def _folds(train: LabelledSplit) -> np.ndarray:
    """Return the fold of each training clip, `[U]`; the clips of a group are in one fold if there are enough groups."""
    groups = [clip.group if clip.group is not None else clip.id for clip in train.clips]
    if len(set(groups)) < FOLDS:
        groups = [clip.id for clip in train.clips]
    order = np.random.default_rng(0).permutation(list(dict.fromkeys(groups)))
    fold_of = {group: index % FOLDS for index, group in enumerate(order.tolist())}
    return np.array([fold_of[group] for group in groups])


def _take(split: LabelledSplit, is_taken_U: np.ndarray) -> LabelledSplit:
    picks = np.flatnonzero(is_taken_U).tolist()
    return replace(
        split,
        clips=[split.clips[index] for index in picks],
        rows_U=[split.rows_U[index] for index in picks],
        truths=[split.truths[index] for index in picks],
    )


def _row_targets(inputs: ProtocolInputs, rows: SplitData, split: LabelledSplit) -> Tensor:
    """Return the target of each row of the logits."""
    task, task_type = inputs.task, inputs.probe_task_type
    state = task_type.fit(task, inputs.train.truths)
    targets = task_type.targets(task, state, split.truths, rows.frames())
    if rows.frame_rate is not None:
        return torch.from_numpy(np.concatenate(targets))
    return torch.from_numpy(np.repeat(targets, [len(own) for own in rows.rows_U], axis=0))
