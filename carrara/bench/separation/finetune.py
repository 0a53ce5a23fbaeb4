"""Source separation with the encoder in training: `--protocol unconstrained` on stems.

A copy of the encoder and MARBLE's head for each stem, on the learned sum of all layers, are trained together on the
squared distance of magnitudes; validation chooses the epoch by the mean SDR. Which weights of the encoder are trained,
their learning rates, and how a run resumes are those of fine-tuning (`carrara/bench/finetune`); mixtures, windows and
evaluation are those of the other protocols, hidden units and dropout those of the dataset.

Letters: B mixtures, J stems, T samples at 44.1 kHz, S samples at the encoder's rate, L layers with layer 0, F frames of
the spectrogram, D features, K bins.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from carrara.bench.decode import prefetched
from carrara.bench.finetune.loop import FineTuneProblem, FineTuneState, fine_tune, restore_best, start_or_resume
from carrara.bench.finetune.model import LAYER, FineTunedEncoder, Loss
from carrara.bench.finetune.settings import FineTuneSettings
from carrara.bench.probes.lr_schedule import Plateau, ProbeHistory
from carrara.bench.protocols._base import Predictor, ProtocolInputs, ProtocolResult, grid_point
from carrara.bench.separation import spectrum
from carrara.bench.separation.evaluate import (
    SDRAccumulator,
    StemSpectra,
    apply_masks,
    iter_windows,
    post_filter,
    separate,
    wiener_filter,
)
from carrara.bench.separation.head import MaskHeadShape, initial_heads
from carrara.bench.separation.songs import (
    Mixtures,
    Song,
    SongWindows,
    StemExcerpt,
    draw_mixtures,
    load_mixtures,
    load_songs,
)
from carrara.bench.separation.train import separation_settings
from carrara.bench.separation.window_encoder import WindowEncoder
from carrara.bench.split_data import SplitData
from carrara.core.progress import track
from carrara.core.task import Task
from carrara.encoders._base import Encoder
from carrara.features.encode import encoder_autocast


@dataclass(frozen=True)
class MixtureStep:
    """Mixtures in memory at once, and whether they open and close a step of the optimiser."""

    mixtures: Mixtures
    first: bool
    last: bool


class SeparationModel(FineTunedEncoder):
    """A copy of the encoder, of which some weights are trained, and a head for each stem.

    Args:
        encoder: copied, not changed.
        task: its labels are the stems.
        settings: which weights are trained.
        seed: of the initial weights of heads and adapters.
        device: on which it will be trained.

    Raises:
        UsageError: the encoder has no frames or no weights, or lacks what the settings need.
    """

    def __init__(self, encoder: Encoder, task: Task, settings: FineTuneSettings, seed: int, device: str) -> None:
        assert task.window_seconds is not None  # the protocol refuses it
        super().__init__(encoder, settings, seed)
        card, own = encoder.card, separation_settings(task)
        self.num_layers = card.num_layers + 1
        num_summed = self.num_layers if card.num_layers else 0
        shape = MaskHeadShape(card.dim, own.hidden, spectrum.BINS, own.dropout, num_summed, own.head)
        self.heads = initial_heads(shape, len(task.labels), seed)
        # Its encoder is this copy, which `.to(device)` moves.
        self.windows = WindowEncoder(self.encoder, task.window_seconds, device)

    def forward(self, samples_BS: np.ndarray, dropout_rng: torch.Generator | None = None) -> Tensor:
        """Return the masks of windows, `[B, J, F, K]`, through which gradients reach the encoder.

        Args:
            samples_BS: the encoder's input.
            dropout_rng: draws the dropped units; None means no dropout.
        """
        with encoder_autocast(self.windows.device):
            layers_BLFD = self.encoder(self.windows.split(samples_BS), gradients=True)
        features = [self.windows.to_spectrogram_frames(layers_BLFD[:, layer]) for layer in range(self.num_layers)]
        return self._masks(features, dropout_rng)

    @torch.no_grad()
    def masks(self, samples_BS: np.ndarray) -> Tensor:
        """Return the masks of windows for evaluation, `[B, J, F, K]`, a few windows encoded at a time."""
        features = self.windows.encode(samples_BS, range(self.num_layers))
        return self._masks([features[layer] for layer in range(self.num_layers)], None)

    def _masks(self, features: list[Tensor], dropout_rng: torch.Generator | None) -> Tensor:
        x = features[0] if len(features) == 1 else torch.stack(features)
        return torch.stack([head(x, dropout_rng) for head in self.heads], dim=1)

    def batch_loss(
        self, batch: MixtureStep, loss: Loss, generator: np.random.Generator, device: str
    ) -> tuple[Tensor, int]:
        """Return the sum over the stems of the mean distance of magnitudes, and the number of mixtures."""
        stems_BJFK = spectrum.stft(torch.from_numpy(batch.mixtures.stems_BJT).to(device))
        dropout_rng = torch.Generator(device).manual_seed(int(generator.integers(2**62)))
        masks_BJFK = self(batch.mixtures.encoder_BS, dropout_rng)
        estimates_BJFK = masks_BJFK * stems_BJFK.sum(1).abs()[:, None]
        return len(self.heads) * loss(estimates_BJFK, stems_BJFK.abs()), len(stems_BJFK)


@dataclass(frozen=True)
class _FineTunedSeparation(Predictor):
    """The training of each seed."""

    task: Task
    device: str
    trained: list[FineTuneState[SeparationModel]]

    def predict(self, split: SplitData) -> list[list[dict[str, float]]]:
        """Return for each seed the SDR of each stem of each song."""
        songs = load_songs(self.task, split.clips)
        names = [f"sdr_{stem}" for stem in self.task.labels]
        predictions = []
        for training in self.trained:
            model = restore_best(training).to(self.device)
            try:
                windows = track(iter_windows(songs, model.windows.window_format), "separating the test songs")
                sdr_UJ = _evaluate(model, len(songs), windows, wiener_filter)
            finally:
                model.cpu()
            predictions.append([dict(zip(names, map(float, sdr_J))) for sdr_J in sdr_UJ])
        return predictions


def fine_tune_separation(inputs: ProtocolInputs, folder_of: Callable[[int], Path]) -> ProtocolResult:
    """Train encoder and heads for each seed and return the epochs that validation chose.

    Args:
        inputs: of the protocol; its settings are `FineTuneSettings`.
        folder_of: seed → the folder from which its training resumes.

    Raises:
        UsageError: the encoder has no frames or nothing to train.
        DataError: a song cannot be read, or training failed.
        StoreError: the file to resume from cannot be written or read.
    """
    started = time.perf_counter()
    task, settings = inputs.task, inputs.settings
    train, valid = load_songs(task, inputs.train.clips), load_songs(task, inputs.valid.clips)
    trained = []
    for seed in inputs.seeds:
        model = SeparationModel(inputs.encoder, task, settings, seed, inputs.device)
        max_epochs = min(task.max_epochs, settings.epochs)
        history = ProbeHistory(Plateau(1.0, task.plateau_patience), task.stop_patience, max_epochs)
        training = start_or_resume(model, history, settings, seed, inputs.device, folder_of(seed))
        problem = FineTuneProblem[SeparationModel](
            task.name,
            partial(_iter_steps, train, task, model.windows, settings, seed),
            settings.steps_per_epoch(len(train) * task.examples_per_clip),
            functional.mse_loss,
            lambda model: (
                float(_evaluate(model, len(valid), iter_windows(valid, model.windows.window_format)).mean()),
                "",
            ),
        )
        fine_tune(training, problem)
        model.cpu()
        trained.append(training)
    return ProtocolResult(
        predictor=_FineTunedSeparation(task, inputs.device, trained),
        tried=len(trained),
        grid=tuple(grid_point(LAYER, settings.learning_rate, each.seed, each.history) for each in trained),
        chosen=tuple(
            {
                "layer": LAYER,
                "mode": settings.mode,
                "epoch": each.history.best_epoch,
                "learning_rate": settings.learning_rate,
                "hidden": separation_settings(task).hidden,
                "post_filter": post_filter(),
            }
            for each in trained
        ),
        seconds={"fine-tuning": time.perf_counter() - started},
        checkpoints=[each.folder for each in trained],
    )


def _iter_steps(
    songs: Sequence[Song], task: Task, windows: WindowEncoder, settings: FineTuneSettings, seed: int, epoch: int
) -> Iterator[MixtureStep]:
    """Yield an epoch's mixtures, read ahead in a thread."""
    drawn = draw_mixtures(songs, task.examples_per_clip, windows.window_format.window, seed, epoch)
    lows = range(0, len(drawn), settings.batch)

    def load(own: Sequence[tuple[StemExcerpt, ...]]) -> Iterator[Mixtures]:
        yield load_mixtures(songs, own, windows.window_format)

    sources = [partial(load, drawn[low : low + settings.batch]) for low in lows]
    for index, mixtures in prefetched(sources, depth=1):
        is_last = (index + 1) % settings.accumulation_steps == 0 or index == len(lows) - 1
        yield MixtureStep(mixtures, index % settings.accumulation_steps == 0, is_last)


def _evaluate(
    model: SeparationModel, songs: int, all_windows: Iterable[SongWindows], stem_spectra: StemSpectra = apply_masks
) -> np.ndarray:
    """Return the SDR of each song and stem in dB, `[U, J]`, from all windows of all songs."""
    sums = SDRAccumulator(songs, len(model.heads))
    for windows in all_windows:
        sums.add(windows, separate(windows, model.masks(windows.encoder_BS), stem_spectra))
    return sums.sdr_UJ()
