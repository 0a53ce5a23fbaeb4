"""Stems with the encoder in training: a plain PyTorch loop, what an interrupted run leaves, and a record."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from carrara.bench.config import BenchConfig
from carrara.bench.finetune.settings import FineTuneSettings
from carrara.bench.run import bench
from carrara.bench.separation import train
from carrara.bench.separation.finetune import SeparationModel
from carrara.bench.separation.songs import draw_mixtures, load_mixtures, load_songs
from carrara.bench.separation.train import SeparationSettings
from carrara.core.errors import UsageError
from carrara.encoders._base import Encoder

FAST = {"batch": 2, "accumulation_steps": 2, "warmup_fraction": 0.0, "learning_rate": 1e-2, "epochs": 2}


@pytest.fixture
def learned(levels):
    """Band levels through two linear layers that can be trained."""

    class Learned(levels):
        def __init__(self):
            super().__init__()
            card = self.card.model_dump() | {"name": "learned", "num_layers": 2, "weights_sha256": ""}
            self.card = type(self.card)(**card)
            generator = torch.Generator().manual_seed(0)
            self.layers = torch.nn.ModuleList(torch.nn.Linear(16, 16) for _ in range(2))
            for layer in self.layers:
                layer.weight.data = torch.eye(16) + 0.1 * torch.randn(16, 16, generator=generator)
                layer.bias.data.zero_()

        def forward(self, samples_BT, lengths_B=None):
            rows = [super().forward(samples_BT)[:, 0]]
            for layer in self.layers:
                rows.append(torch.tanh(layer(rows[-1])))
            return torch.stack(rows, 1)

    return Learned


@pytest.fixture(autouse=True)
def small_heads(monkeypatch, tmp_path):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(train.BY_DATASET, "toys", SeparationSettings(hidden=16, dropout=0.0))


def run(encoder, task, toys, tmp_path, **settings):
    config = BenchConfig(protocol="unconstrained", settings=FAST | settings)
    return bench(encoder, [task], results=tmp_path / "out", config=config, datasets={"toys": toys})


def test_training_is_a_plain_loop(task, toys, splits, learned, tmp_path, monkeypatch):
    task = task.model_copy(update={"max_epochs": 1, "examples_per_clip": 2})
    encoder = learned()
    settings = FineTuneSettings(**FAST, encoder_learning_rate=3e-3, layer_decay=0.5)
    seed = BenchConfig().seeds[0]
    model = SeparationModel(encoder, task, settings, seed, "cpu")
    network, heads = copy.deepcopy(encoder), copy.deepcopy(model.heads)
    songs = load_songs(task, splits["train"])
    groups = [
        (heads.parameters(), 1e-2),
        (network.layers[1].parameters(), 3e-3),
        (network.layers[0].parameters(), 1.5e-3),
    ]
    adam = torch.optim.AdamW(
        [
            {"params": [parameter], "lr": rate, "weight_decay": 0.01 if parameter.ndim > 1 else 0.0}
            for parameters, rate in groups
            for parameter in parameters
        ]
    )
    window = model.windows.window_format
    mixtures, losses = draw_mixtures(songs, 2, window.window, seed, 0), []
    for begin in range(0, len(mixtures), 4):
        adam.zero_grad()
        for low in range(begin, begin + 4, 2):
            audio = load_mixtures(songs, mixtures[low : low + 2], window)
            features = network(torch.from_numpy(audio.encoder_BS), gradients=True)
            times = np.arange(features.shape[2]) / 50
            frames = np.arange(model.windows.num_frames) * 1024 / 44_100
            after = np.clip(np.searchsorted(times, frames, "right"), 1, len(times) - 1)
            share = torch.from_numpy(np.clip((frames - times[after - 1]) * 50, 0, 1)).float()[:, None]
            on_frames = features[:, :, after - 1] * (1 - share) + features[:, :, after] * share
            spectra = torch.stft(
                torch.from_numpy(audio.stems_BJT).flatten(0, 1), 4096, 1024,
                window=torch.hann_window(4096), return_complex=True,
            ).mT.unflatten(0, (-1, 2))  # fmt: skip
            mixed = spectra.sum(1).abs()
            loss = sum(
                ((head(on_frames.transpose(0, 1)) * mixed - spectra[:, stem].abs()) ** 2).mean()
                for stem, head in enumerate(heads)
            )
            (loss / 2).backward()
            losses.append(loss.item())
        torch.nn.utils.clip_grad_norm_([p for group in adam.param_groups for p in group["params"]], 1.0)
        adam.step()

    kept = {}
    original = SeparationModel.trainable_state
    monkeypatch.setattr(
        SeparationModel, "trainable_state", lambda self: kept.setdefault(0, original(self)) and original(self)
    )
    (record,) = run(encoder, task, toys, tmp_path, epochs=1, encoder_learning_rate=3e-3, layer_decay=0.5)
    assert record.protocol.chosen["mode"] == "full" and record.protocol.chosen["hidden"] == 16
    assert record.grid[0].epochs == 1
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(kept[0][f"encoder.{name}"], tensor, atol=2e-5, rtol=1e-4)
    moved = heads[0].outer.weight
    torch.testing.assert_close(kept[0]["heads.0.outer.weight"], moved, atol=2e-4, rtol=1e-3)
    assert not torch.equal(network.layers[0].weight, encoder.layers[0].weight), "the encoder itself is trained"


@pytest.mark.slow
def test_a_record_beats_the_mixture_and_the_best_constant(task, toys, learned, tmp_path):
    task = task.model_copy(update={"max_epochs": 8, "examples_per_clip": 16})
    (record,) = run(learned(), task, toys, tmp_path, epochs=8, accumulation_steps=2)
    (constant,) = bench("majority", [task], results=tmp_path / "out", datasets={"toys": toys})
    assert record.protocol.name.startswith("unconstrained:") and record.protocol.tried == 1
    assert record.mean_score() > constant.mean_score() + 1
    assert not any((tmp_path / "home/finetune").glob("*/*")), "the file to resume from is removed"


@pytest.mark.slow
def test_an_interrupted_run_resumes_where_it_stopped(task, toys, learned, tmp_path, monkeypatch):
    task = task.model_copy(update={"max_epochs": 3, "examples_per_clip": 2})
    (whole,) = run(learned(), task, toys, tmp_path / "whole", epochs=3)
    epochs, original = [], train.draw_mixtures

    def interrupt(songs, examples, window, seed, epoch):
        epochs.append(epoch)
        if len(epochs) == 3:
            raise KeyboardInterrupt
        return original(songs, examples, window, seed, epoch)

    monkeypatch.setattr("carrara.bench.separation.finetune.draw_mixtures", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(learned(), task, toys, tmp_path / "again", epochs=3)
    (resumed,) = run(learned(), task, toys, tmp_path / "again", epochs=3)
    assert epochs == [0, 1, 2, 2]
    assert resumed.scores == whole.scores and resumed.grid == whole.grid


def test_what_cannot_be_trained_is_refused(task, toys, levels, tmp_path, capsys):
    with pytest.raises(UsageError, match="has no weights that could be trained"):
        run(levels(), task, toys, tmp_path)

    class Vector(Encoder):
        def __init__(self, card):
            super().__init__()
            self.card = card.model_copy(update={"frame_rate": None})
            self.weight = torch.nn.Parameter(torch.ones(1))

    assert not run(Vector(levels().card), task, toys, tmp_path)
    assert "no frames" in capsys.readouterr().err
