"""Stems with registered heads: the training is a plain PyTorch loop, and a record beats the mixture."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from carrara.bench.config import BenchConfig
from carrara.bench.probes.probe import ProbeSpec
from carrara.bench.run import bench
from carrara.bench.separation import train
from carrara.bench.separation.evaluate import SDRAccumulator, iter_windows
from carrara.bench.separation.head import LogisticMaskHead, MaskHeadShape, initial_heads
from carrara.bench.separation.songs import draw_mixtures, load_mixtures, load_songs
from carrara.bench.separation.train import SeparationProblem, SeparationSettings, train_trials
from carrara.bench.separation.window_encoder import WindowEncoder
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


class PlainLstm(torch.nn.Module):
    """Two bidirectional layers of 8 units in each direction, and a linear layer, of plain torch."""

    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(16, 8, num_layers=2, batch_first=True, bidirectional=True)
        self.outer = torch.nn.Linear(16, 2049)

    def forward(self, x):
        return self.outer(self.lstm(x)[0])


def plain_network(head):
    """Return the plain network with the weights of a registered head."""
    if isinstance(getattr(head.network, "lstm", None), torch.nn.LSTM):
        plain = PlainLstm()
        plain.lstm.load_state_dict(head.network.lstm.state_dict())
    else:
        plain = torch.nn.ModuleDict({"outer": torch.nn.Linear(16, 2049)})
        plain.forward = plain.outer.forward
    weight, bias = (value for name, value in head.network.named_parameters() if name.startswith("outer."))
    plain.outer.load_state_dict({"weight": weight, "bias": bias})
    return plain


@pytest.mark.parametrize(("name", "weight_decay"), [("linear", 0.0), ("lstm", 0.1)])
def test_training_a_registered_head_is_a_plain_loop(task, splits, levels, name, weight_decay):
    settings = replace(SETTINGS, head=name, dropout=0.0, weight_decay=weight_decay)
    task = task.model_copy(update={"max_epochs": 2, "examples_per_clip": 2})
    encoder = WindowEncoder(levels(), 0.5, "cpu")
    songs = load_songs(task, splits["train"])
    problem = SeparationProblem(task, encoder, songs, load_songs(task, splits["valid"]), settings, "cpu")
    (trial,) = train_trials(problem, [ProbeSpec("0", ("0",), 1e-2, 1)])

    shape = MaskHeadShape(16, 16, 2049, 0.0, head=name)
    networks = [plain_network(head) for head in initial_heads(shape, 2, trial.dropout_rng.initial_seed())]
    parameters = [parameter for network in networks for parameter in network.parameters()]
    adam = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=weight_decay)
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
                ((torch.sigmoid(network(features)) * spectra.sum(1).abs() - spectra[:, stem].abs()) ** 2).mean()
                for stem, network in enumerate(networks)
            )
            adam.zero_grad()
            loss.backward()
            adam.step()
            epoch_losses.append(loss.item())
        losses.append(np.mean(epoch_losses))
    assert trial.history.losses == pytest.approx(losses, rel=1e-4)
    assert trial.history.best_epoch == 1
    for network, head in zip(networks, trial.heads):
        assert torch.allclose(network.outer.weight, plain_network(head).outer.weight, atol=2e-4)


def test_dropout_comes_from_the_points_own_draws(task, splits, levels):
    task = task.model_copy(update={"max_epochs": 2, "examples_per_clip": 1})
    songs, valid = load_songs(task, splits["train"]), load_songs(task, splits["valid"])
    settings = replace(SETTINGS, head="mlp", dropout=0.5)
    problem = SeparationProblem(task, WindowEncoder(levels(), 0.5, "cpu"), songs, valid, settings, "cpu")
    specs = [ProbeSpec("0", ("0",), rate, 1) for rate in (1e-3, 1e-2)]
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    together = train_trials(problem, specs)
    assert torch.equal(torch.rand(1), expected)
    (alone,) = train_trials(problem, specs[1:])
    assert alone.history.losses == together[1].history.losses
    without = SeparationProblem(task, problem.encoder, songs, valid, replace(settings, dropout=0.0), "cpu")
    assert train_trials(without, specs[1:])[0].history.losses != alone.history.losses


@pytest.mark.parametrize(
    ("protocol", "settings", "tried"),
    [
        ("linear", {}, 2),
        ("semi-constrained", {"head": "lstm", "hidden": 32, "learning_rates": [1e-3, 3e-2]}, 4),
        ("semi-constrained", {"head": "mlp", "hidden": 32, "learning_rates": [3e-2], "layer": "0"}, 2),
    ],
    ids=["linear", "lstm", "mlp"],
)
@pytest.mark.slow
def test_a_record_beats_the_mixture(task, toys, levels, tmp_path, monkeypatch, splits, protocol, settings, tried):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(train.BY_DATASET, "toys", SeparationSettings(hidden=16, batch_size=4, micro_batch_size=4))
    monkeypatch.setattr("carrara.bench.protocols.constrained.LEARNING_RATES", (5e-2,))
    config = BenchConfig(protocol, settings, seeds=(1, 2))
    (record,) = bench(levels(), [task], results=tmp_path / "results", datasets={"toys": toys}, config=config)
    assert record.protocol.name == config.name and record.protocol.tried == tried
    assert record.protocol.chosen["head"] == settings.get("head", "linear") and "hidden" not in record.protocol.chosen
    songs = load_songs(task, splits["test"])
    sums = SDRAccumulator(len(songs), 2)
    for windows in iter_windows(songs, WindowEncoder(levels(), 0.5, "cpu").window_format):
        sums.add(windows, torch.from_numpy(windows.mixture_BCT)[:, None].expand(-1, 2, -1, -1))
    for name, before in zip(("sdr_tone", "sdr_hiss"), sums.sdr_UJ().mean(0)):
        assert record.scores[name].value > before + 4 and record.scores[name].n == 3


def test_what_makes_no_sense_for_stems_is_refused_in_one_line(task, toys, levels, tmp_path):
    options = {"results": tmp_path, "datasets": {"toys": toys}}
    config = BenchConfig(protocol="linear", settings={"layers": "concat:last1"})
    with pytest.raises(UsageError, match="source separation reads layers 0 to L; leave --set layers out"):
        bench(levels(), [task], config=config, **options)
    endless = task.model_copy(update={"window_seconds": None})
    with pytest.raises(UsageError, match="set window_seconds"):
        bench(levels(), [endless], config=BenchConfig(protocol="linear"), **options)
    with pytest.raises(UsageError, match="set window_seconds"):
        bench(levels(), [endless], config=BenchConfig("semi-constrained"), **options)
    for settings, message in (
        ({"head": "attention-pool"}, "no prediction for each frame; use --set head= one of conv, linear, lstm, mlp"),
        ({"head": "svm"}, "no prediction for each frame"),
        ({"layer": "cnn"}, "source separation reads layers 0 to L; leave --set layer=cnn out"),
        ({"layer": "7"}, "--set layer=7: there is no such layer; there are weighted-sum, 0"),
    ):
        with pytest.raises(UsageError, match=message):
            bench(levels(), [task], config=BenchConfig("semi-constrained", settings), **options)
