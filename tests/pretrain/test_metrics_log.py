"""The log: means equal to naive sums, lines that survive a kill or a roll-back."""

import json

import pytest
import torch

from carrara.core.errors import StoreError
from carrara.core.settings import parse_settings, replace
from carrara.pretrain.dry_run import plan_run
from carrara.pretrain.gpus import peak_flops
from carrara.pretrain.metrics_log import ROLLED_BACK, SKIPPED, MetricAverager, MetricsLog, read_events, read_metrics
from carrara.pretrain.objectives._losses import merge_sums
from carrara.pretrain.objectives._masked_network import prediction_metrics
from carrara.pretrain.run import pretrain


def test_a_line_averages_over_masked_frames():
    parts = []
    for frames, loss, right, error, baseline in ((10, 30.0, 4, 5.0, 20.0), (30, 60.0, 20, 5.0, 20.0)):
        sums = {
            "prediction": torch.tensor(loss + error),
            "penalty": torch.tensor(2.0),
            "frames": torch.tensor(frames),
            "masked": torch.tensor(frames),
            "clips": torch.tensor(4),
            "frames/a": torch.tensor(frames),
            "loss/a": torch.tensor(loss),
            "correct/a": torch.tensor(right),
            "mse/cqt": torch.tensor(error),
            "baseline/cqt": torch.tensor(baseline),
            "predicted/a": torch.tensor([frames, 0, frames]),
            "labels/a": torch.tensor([frames, 0, frames]),
        }
        parts.append(sums)
    line = prediction_metrics(merge_sums(parts))
    assert line["loss"] == pytest.approx(100 / 40 + 4 / 8)
    assert line["penalty"] == pytest.approx(4 / 8)
    assert line["loss/a"] == pytest.approx(90 / 40)
    assert line["accuracy/a"] == pytest.approx(24 / 40)
    assert line["mse/cqt"] == pytest.approx(10 / 40)
    assert line["relative_mse/cqt"] == pytest.approx(0.25)
    assert line["classes_used/a"] == 2
    assert line["perplexity/a"] == line["perplexity_target/a"] == pytest.approx(2)


def test_metrics_are_averaged_over_the_steps_taken():
    averager = MetricAverager(steps=3, skipped=1, missing=2)
    for norm in (1.0, 4.0):
        averager.add({"gradient_norm": norm, "clipped_fraction": norm > 2})
    assert averager.means() == {
        "steps": 3, "skipped": 1, "missing": 2, "gradient_norm": 2.5, "clipped_fraction": 0.5
    }  # fmt: skip
    assert MetricAverager(steps=1, skipped=1).means() == {"steps": 1, "skipped": 1, "missing": 0}


def test_standard_deviations_are_those_of_all_values_together():
    values = torch.randn(30, 5, generator=torch.Generator().manual_seed(0)).double() * torch.arange(1, 6) + 3
    parts = []
    for part in values.split(11):
        moments = torch.stack([torch.full((5,), len(part)).double(), part.sum(0), part.square().sum(0)])
        counts = {name: torch.tensor(len(part)) for name in ("frames", "masked", "clips")}
        loss = {name: torch.tensor(0.0) for name in ("prediction", "penalty")}
        parts.append({**counts, **loss, "moments/target/x": moments})
    expected = values.std(dim=0, correction=0).mean().item()
    assert prediction_metrics(merge_sums(parts))["std/target/x"] == pytest.approx(expected)


def test_a_roll_back_removes_the_undone_lines_and_keeps_the_events(tmp_path):
    log = MetricsLog(tmp_path, 0)
    for step in (2, 4, 6):
        log.write({"step": step})
    log.write({"step": 7, "event": SKIPPED})
    log.write({"step": 4, "event": ROLLED_BACK})
    log.rewind(4)
    log.write({"step": 6, "loss": 1.0})
    log.write({"step": 9, "event": SKIPPED})
    reopened = MetricsLog(tmp_path, 6)
    reopened.close()
    assert [line["step"] for line in read_metrics(reopened.path)] == [2, 4, 6]
    assert [line["step"] for line in read_events(reopened.path)] == [7, 4]


def test_reopening_removes_later_steps_and_a_torn_line(tmp_path):
    log = MetricsLog(tmp_path, 0)
    for step in (2, 4, 6):
        log.write({"step": step})
    log.close()
    with open(log.path, "a") as file:
        file.write('{"step": 8, "lo')
    assert [line["step"] for line in read_metrics(log.path)] == [2, 4, 6]
    reopened = MetricsLog(tmp_path, 4)
    reopened.write({"step": 6, "loss": 1.5})
    reopened.close()
    assert [json.loads(line) for line in log.path.read_text().splitlines()] == [
        {"step": 2},
        {"step": 4},
        {"step": 6, "loss": 1.5},
    ]


def test_a_full_disk_is_one_line_with_the_cure(tmp_path):
    log = MetricsLog(tmp_path, 0)
    log.write({"step": 1})
    log.path.unlink()
    log.path.symlink_to("/dev/full")
    with pytest.raises(StoreError, match=r"metrics.jsonl: cannot write here \(No space left on device\); make room"):
        log.write({"step": 2})
    log.close()


def test_operations_a_second_are_those_of_the_plan(micro, corpus, tmp_path):
    # Of targets only a network's labels would count in a plan.
    values = replace(micro, {"steps": 2, "log_every": 2, "accumulation_steps": 2}).model_dump()
    recipe = parse_settings(type(micro), values | {"targets": {"chroma": values["targets"]["chroma"]}}, "test")
    pretrain(recipe, corpus, tmp_path / "plain", device="cpu")
    (line,) = read_metrics(tmp_path / "plain" / "metrics.jsonl")
    # The rate of operations and the rate of audio are over the same seconds.
    crops_per_second = line["audio_hours_per_hour"] / recipe.crop_seconds
    flops_per_crop = line["flops_per_second"] / crops_per_second
    assert flops_per_crop == pytest.approx(
        plan_run(replace(recipe, {"accumulation_steps": 1}), device="cpu")["flops_per_step"] / recipe.batch, rel=0.02
    )
    # Activations that are computed again do not count, and no CPU has a known peak.
    pretrain(replace(recipe, {"activation_checkpointing": True}), corpus, tmp_path / "again", device="cpu")
    (again,) = read_metrics(tmp_path / "again" / "metrics.jsonl")
    rate = again["flops_per_second"] / (again["audio_hours_per_hour"] / recipe.crop_seconds)
    assert rate == pytest.approx(flops_per_crop)
    assert "mfu" not in line


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("AMD Instinct MI300X", None),
    ],
)
def test_peaks_go_by_pytorchs_names(name, peak):
    assert peak_flops(name) == peak
