"""The benchmark of training steps: ours and the peer do the same work, and the script writes what it measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TINY = ["--channels", "16", "--dim", "32", "--layers", "2", "--batch", "2", "--seconds", "1", "--tagging-seconds", "2"]


@pytest.fixture
def steps(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import steps

    return steps


def test_both_losses_of_masked_prediction_are_equal_with_equal_weights(steps):
    size = steps.NetworkSize(channels=16, dim=32, num_layers=2, num_heads=4)
    samples_BT = 0.1 * torch.randn(3, 16_000, generator=torch.Generator().manual_seed(1))
    batch = steps.draw_masked_batch(3, 16_000, (7, 5))
    ours, peer = steps.MaskedPredictionLoss(size, batch, 0.0), steps.HubertLoss(size, batch, 0.0)
    peer.network.load_state_dict(ours.network.state_dict())
    peer.project.load_state_dict(ours.model.project.state_dict())
    for theirs, own in zip(peer.classes, ours.model.classes):
        theirs.data.copy_(own)
    calls = [steps.make_step(objective) for objective in (ours, peer)]
    first, second = ([float(step(samples_BT)) for step in calls] for _ in range(2))
    assert first[0] == pytest.approx(first[1], rel=1e-5)
    # Ours alone scales the gradient of the convolutions, which changes what clipping leaves of the rest.
    assert second[0] == pytest.approx(second[1], rel=1e-2)


def test_both_taggers_see_equally_many_patches(steps):
    size = steps.NetworkSize(dim=32, num_layers=2, num_heads=4)
    tags_BC, mel_BFM = torch.ones(2, 5), torch.randn(2, 126, steps.MEL_BANDS)
    ours, peer = (loss(size, 126, tags_BC) for loss in (steps.TaggingLoss, steps.AstLoss))
    tokens = [
        ours.network.vit(mel_BFM)[-1],
        peer.network.audio_spectrogram_transformer(mel_BFM).last_hidden_state,
    ]
    assert tokens[0].shape == tokens[1].shape
    parameters = [sum(parameter.numel() for parameter in each.parameters()) for each in (ours, peer)]
    assert parameters[0] == pytest.approx(parameters[1], rel=0.1)


@pytest.mark.slow
def test_the_script_writes_a_row_for_each_objective_and_for_two_processes(tmp_path):
    output = tmp_path / "train.json"
    command = [sys.executable, str(BENCHMARKS / "train.py"), *TINY, "--rounds", "1", "-o", str(output)]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    results = json.loads(output.read_text())
    for name in ("masked-prediction", "tagging"):
        row = results[name]
        assert row["ratio"] == pytest.approx(row["transformers_seconds"] / row["ours_seconds"])
        assert row["ours_peak_mb"] > 50
        assert name in table
    row = results["processes"]
    assert row["efficiency"] == pytest.approx(row["one_process_seconds"] / (2 * row["two_processes_seconds"]))
    assert {"device", "command", "date", "versions"} <= set(results)
