"""Stems with registered heads: the training is a plain PyTorch loop, and a record beats the mixture."""

import numpy as np
import pytest
import torch

from carrara.bench.config import BenchConfig
from carrara.bench.probes.probe import ProbeSpec
from carrara.bench.run import bench
from carrara.bench.separation import train
from carrara.bench.separation.evaluate import SDRAccumulator, iter_windows
from carrara.bench.separation.frozen_encoder import FrozenEncoder
from carrara.bench.separation.head import LogisticMaskHead, MaskHeadShape, initial_heads
from carrara.bench.separation.songs import draw_mixtures, load_mixtures, load_songs
from carrara.bench.separation.train import SeparationProblem, SeparationSettings, train_trials
from carrara.core.errors import UsageError

SETTINGS = SeparationSettings(hidden=16, batch_size=4, micro_batch_size=2, head="linear")


def test_a_linear_mask_is_the_logistic_function_of_a_linear_map_of_the_weighted_sum():
    torch.manual_seed(0)
    head = LogisticMaskHead(MaskHeadShape(dim=4, hidden=8, bins=5, num_summed=3, head="linear"))
    assert sum(parameter.numel() for parameter in head.parameters()) == 4 * 5 + 5 + 3
    layers = torch.randn(3, 2, 6, 4)
    weights = {name: value.detach().numpy() for name, value in head.named_parameters()}
    shares = np.exp(weights["mix"]) / np.exp(weights["mix"]).sum()
    summed = np.einsum("l,lbfd->bfd", shares, layers.numpy())
    logits = summed @ weights["network.outer.weight"].T + weights["network.outer.bias"]
    with torch.no_grad():
        assert np.allclose(head(layers).numpy(), 1 / (1 + np.exp(-logits)), atol=1e-6)


def test_training_a_linear_mask_is_a_plain_loop(task, splits, levels):
    task = task.model_copy(update={"max_epochs": 2, "examples_per_clip": 2})
    encoder = FrozenEncoder(levels(), 0.5, "cpu")
    songs = load_songs(task, splits["train"])
    problem = SeparationProblem(task, encoder, songs, load_songs(task, splits["valid"]), SETTINGS, "cpu")
    (trial,) = train_trials(problem, [ProbeSpec("0", ("0",), 1e-2, 1)])

    drawn = initial_heads(MaskHeadShape(16, 16, 2049, head="linear"), 2, trial.dropout_rng.initial_seed())
    linear = [torch.nn.Linear(16, 2049), torch.nn.Linear(16, 2049)]
    for layer, head in zip(linear, drawn):
        layer.load_state_dict(head.network.outer.state_dict())
    adam = torch.optim.Adam([parameter for layer in linear for parameter in layer.parameters()], lr=1e-2)
    losses = []
    for epoch in range(2):
        mixtures = draw_mixtures(songs, 2, encoder.window_format.window, 1, epoch)
        epoch_losses = []
        for begin in range(0, len(mixtures), 4):
            audio = load_mixtures(songs, mixtures[begin : begin + 4], encoder.window_format)
            features = encoder.encode(audio.encoder_BS, [0])[0]
            stems = torch.from_numpy(audio.stems_BJT)
            spectra = torch.stft(
                stems.flatten(0, 1), 4096, 1024, window=torch.hann_window(4096), return_complex=True
            ).transpose(1, 2)
            spectra = spectra.unflatten(0, (-1, 2))
            loss = sum(
                ((torch.sigmoid(layer(features)) * spectra.sum(1).abs() - spectra[:, stem].abs()) ** 2).mean()
                for stem, layer in enumerate(linear)
            )
            adam.zero_grad()
            loss.backward()
            adam.step()
            epoch_losses.append(loss.item())
        losses.append(np.mean(epoch_losses))
    assert trial.history.losses == pytest.approx(losses, rel=1e-4)
    assert trial.history.best_epoch == 1
    for layer, head in zip(linear, trial.heads):
        assert torch.allclose(layer.weight, head.network.outer.weight, atol=1e-4)


@pytest.mark.slow
def test_a_record_under_linear_beats_the_mixture(task, toys, levels, tmp_path, monkeypatch, splits):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(train.BY_DATASET, "toys", SeparationSettings(hidden=16, batch_size=4, micro_batch_size=4))
    monkeypatch.setattr("carrara.bench.protocols.constrained.LEARNING_RATES", (5e-2,))
    config = BenchConfig(protocol="linear", seeds=(1, 2))
    (record,) = bench(levels(), [task], results=tmp_path / "results", datasets={"toys": toys}, config=config)
    assert record.protocol.name == "linear" and record.protocol.tried == 2
    assert record.protocol.chosen["head"] == "linear" and "hidden" not in record.protocol.chosen
    songs = load_songs(task, splits["test"])
    sums = SDRAccumulator(len(songs), 2)
    for windows in iter_windows(songs, FrozenEncoder(levels(), 0.5, "cpu").window_format):
        sums.add(windows, torch.from_numpy(windows.mixture_BCT)[:, None].expand(-1, 2, -1, -1))
    for name, before in zip(("sdr_tone", "sdr_hiss"), sums.sdr_UJ().mean(0)):
        assert record.scores[name].value > before + 4 and record.scores[name].n == 3


def test_linear_refuses_other_layers_and_tasks_without_windows(task, toys, levels, tmp_path):
    options = {"results": tmp_path, "datasets": {"toys": toys}}
    config = BenchConfig(protocol="linear", settings={"layers": "concat:last1"})
    with pytest.raises(UsageError, match="source separation reads layers 0 to L; leave --set layers out"):
        bench(levels(), [task], config=config, **options)
    endless = task.model_copy(update={"window_seconds": None})
    with pytest.raises(UsageError, match="set window_seconds"):
        bench(levels(), [endless], config=BenchConfig(protocol="linear"), **options)
