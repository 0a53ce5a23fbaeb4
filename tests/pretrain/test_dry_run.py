"""What a run will need: parameters, audio, operations and memory against counts by hand; nothing is written."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

from carrara.cli._main import app
from carrara.core.errors import CarraraError, UsageError
from carrara.core.settings import replace
from carrara.pretrain.checkpoint import TRAINING, load_checkpoint
from carrara.pretrain.distributed import Dist
from carrara.pretrain.dry_objectives import dry_objective
from carrara.pretrain.dry_run import describe_plan, plan_run
from carrara.pretrain.gpus import GPUS
from carrara.pretrain.recipes._base import resolve
from carrara.pretrain.run import build_run, pretrain
from carrara.pretrain.step_cost import measure_cost
from carrara.pretrain.train import train

EXECUTED = ("effnet-tagger", "rvq-vae")
# One of each other family: all recipes together take a quarter of an hour.
SLOW = ("mert-v1-95m", "music2vec-crop5s", "maest-5s", "m2d")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def plan(micro):
    return plan_run(micro, device="cpu", gpus=2)


def test_parameters_are_those_of_the_module(micro, plan, initial_state, corpus, tmp_path):
    state, _ = initial_state(micro, corpus, tmp_path / "run")
    objective = dry_objective(micro, CPU, ())
    counts = dict(plan["parameters"])
    total = counts.pop("total")
    assert total == sum(each.numel() for each in objective.module.parameters()) == sum(counts.values())
    # The run that trains has the same tensors.
    assert {name: each.shape for name, each in state.items()} == {
        name: each.shape for name, each in objective.module.state_dict().items()
    }
    heads = sum(each.numel() for name, each in objective.module.named_parameters() if not name.startswith("encoder."))
    assert counts["heads"] == heads


def test_audio_is_batch_times_crop(plan):
    assert plan["audio_hours_per_step"] == pytest.approx(4 * 1.0 / 3600)
    assert plan["audio_hours"] == pytest.approx(12 * 4 / 3600)
    base = resolve("mert-v1-95m")
    assert base.batch * base.crop_seconds / 3600 == pytest.approx(1.51, abs=0.01)  # as the recipe's docstring says


def test_tagging_runs_for_its_epochs():
    plan = plan_run("maest-5s", scale="tiny", device="cpu", changes={"network.num_layers": 1, "network.dim": 16,
                    "network.num_heads": 2, "network.ffn_dim": 16})  # fmt: skip
    assert plan["steps"] == 52 * 20  # two fifths of 130 epochs, of 240 clips in batches of 12
    assert plan["memory"]["other_networks"] > 0  # the averaged network


def test_memory_of_weights_gradients_and_adam(plan):
    memory, total = plan["memory"], plan["parameters"]["total"]
    assert memory["gradients"] == 4 * total
    assert memory["adam"] == 8 * total
    assert memory["weights"] >= 4 * total


class _Linear(nn.Module):
    """A stand-in for an objective: a squared linear map, whose operations are counted by hand."""

    samples, outputs = 256, 64

    def __init__(self):
        super().__init__()
        self.dist, self.module = Dist(device=CPU), nn.Linear(self.samples, self.outputs)
        self.stream = type("Stream", (), {"crop_samples": self.samples})

    def micro_batches(self, batch):
        return [type("Crops", (), {"samples_BT": batch.samples_BT, "divisors": {}})]

    def losses(self, network, crops, step):
        value = network(crops.samples_BT).square().sum()
        return type("Losses", (), {"loss": lambda self, divisors: value})()


def test_operations_of_a_linear_map(micro):
    cost = measure_cost(_Linear(), replace(micro, {"batch": 1}))
    # A product and a sum for each weight, forward and for the gradient of the weights; crops have no gradient.
    assert cost["flops_per_crop"] == pytest.approx(2 * 2 * 256 * 64, rel=0.03)
    # Outputs, their squares and the gradients of both, and the weights' new gradient; 4 bytes each.
    assert 4 * 256 * 64 <= cost["activations"] <= 2.5 * 4 * 256 * 64


def test_the_error_of_a_crops_seconds_is_that_of_the_mean_over_micro_batches(micro, monkeypatch):
    seconds = iter([0.1, 0.5, 2.0, 3.0, 4.0])  # optimiser, first crop, micro-batches
    clock = [0.0, True]

    def tick():
        clock[1] = not clock[1]
        clock[0] += next(seconds) if clock[1] else 0.0
        return clock[0]

    monkeypatch.setattr("time.perf_counter", tick)
    cost = measure_cost(_Linear(), replace(micro, {"batch": 1}))
    assert cost["seconds_per_crop"] == pytest.approx(3.0) and cost["optimiser_seconds"] == pytest.approx(0.1)
    assert cost["seconds_error"] == pytest.approx(1 / 3**0.5 / 3)  # the mean's standard error, over the mean


def test_ranges_hold_the_expected_time(plan):
    low, expected, high = (plan[f"seconds_per_step{name}"] for name in ("_low", "", "_high"))
    assert expected / low == pytest.approx(high / expected) and high / expected >= 1.22  # exp(2 · 0.1), the drift alone
    for key in ("this_device", "gpus"):
        assert plan[key]["hours_low"] < plan[key]["hours"] < plan[key]["hours_high"]
    assert plan["this_device"]["hours_high"] == pytest.approx(high * plan["steps"] / 3600)


@pytest.mark.slow
def test_operations_of_a_transformer_are_about_six_a_weight_and_frame(micro):
    recipe = replace(micro, {"network.num_layers": 4, "network.dim": 256, "network.ffn_dim": 1024, "crop_seconds": 4.0})
    deeper = replace(recipe, {"network.num_layers": 8})
    first, second = (plan_run(each, device="cpu") for each in (recipe, deeper))
    weights = second["parameters"]["total"] - first["parameters"]["total"]
    frames, dim = 199, 256
    # Attention: two products of frames × frames × dim, forward, and 2.5 times that backward with recomputation.
    by_hand = recipe.batch * (6 * weights * frames + 4 * 3.5 * 2 * 2 * frames * frames * dim)
    assert second["flops_per_step"] - first["flops_per_step"] == pytest.approx(by_hand, rel=0.03)


def test_layers_that_layerdrop_leaves_out_are_measured_too(micro):
    dropping = plan_run(replace(micro, {"network.layerdrop": 0.9}), device="cpu")
    # The masks of a crop, and so the predicted frames, are the same.
    assert dropping["flops_per_step"] == plan_run(micro, device="cpu")["flops_per_step"]


def test_time_on_other_gpus_is_operations_over_their_peak(plan):
    peak, memory = GPUS["h100"]
    seconds = plan["flops_per_step"] * plan["steps"] / (2 * peak * plan["gpus"]["assumed_mfu"])
    assert plan["gpus"]["hours"] == pytest.approx(seconds / 3600)
    assert plan["gpus"]["capacity"] == memory
    with pytest.raises(UsageError, match=r"--gpu h10: is not known\. Did you mean 'h100'"):
        plan_run("mert-v0", scale="tiny", gpu="h10")


def test_labels_of_whole_files(micro, corpus, tmp_path):
    changes = {"targets": {"codes": {"target": "codes", "num_codebooks": 2, "whole_files": True}}}
    plan = plan_run(replace(micro, changes), [corpus], device="cpu")
    hours = sum(2 + number / 5 for number in range(10)) / 3600
    assert plan["labels"]["corpus_hours"] == pytest.approx(hours)
    assert plan["labels"]["bytes"] == pytest.approx(hours * 3600 * 50 * 2 * 2)  # 50 frames a second, 2 codebooks, int16


def test_command_prints_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["pretrain", "mert-v0", "--scale", "tiny", "--steps", "7", "--dry-run", "--device", "cpu"]
    text = CliRunner().invoke(app, [*command, "-o", "out", "--gpu", "rtx-4090", "--gpus", "1"])
    assert text.exit_code == 0, text.output
    assert "1 x rtx-4090" in text.stdout and "7 steps" in text.stdout and "assumed MFU" in text.stdout
    plan = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert plan["steps"] == 7
    assert describe_plan(plan).count("\n") == 6
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "name",
    [*EXECUTED, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)],
)
def test_a_recipe_of_each_family_has_a_plan_at_the_published_size(name):
    plan = plan_run(name, device="cpu")
    assert plan["flops_per_step"] > 0 and plan["seconds_per_step"] > 0
    assert plan["gpus"]["accumulation_steps"]


# A variant of each kind of network, target and loss; all of them at all scales take an hour.
SMALLER = (
    "mert-v0",
    "mert-v0-iter2",
    "mert-v1-95m",
    "mert-v1-330m",
    "mert-v1-330m-deepnorm",
    "music2vec",
    "m2d",
    "a-jepa",
)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "scale"), [*((name, "tiny") for name in SMALLER), ("a-jepa", "small")])
def test_a_recipe_has_a_plan_at_the_smaller_scales(name, scale):
    plan = plan_run(name, scale=scale, device="cpu")
    assert plan["flops_per_step"] > 0 and plan["this_device"]["accumulation_steps"]
    assert plan["steps"] == resolve(name, scale).steps


def fail_at_step(recipe, corpus, folder, failing_step, fail):
    """Train a run whose losses fail at a step, from 0, and return the message."""
    run = build_run(recipe, [corpus], folder, False, Dist(device=CPU))
    losses = run.objective.losses

    def failing_losses(network, micro_batch, step):
        if step == failing_step:
            fail()
        return losses(network, micro_batch, step)

    run.objective.losses = failing_losses
    with pytest.raises(CarraraError) as problem:
        train(run)
    run.log.close()
    return str(problem.value)


def allocate_too_much():
    torch.empty(2**60, dtype=torch.uint8)


def raise_as_a_gpu_does():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


@pytest.mark.slow
@pytest.mark.parametrize("fail", [allocate_too_much, raise_as_a_gpu_does])
def test_out_of_memory_names_the_cure_and_loses_nothing(micro, corpus, tmp_path, fail):
    recipe = replace(micro, {"steps": 4, "checkpoint_every": 100})
    whole, folder, cured = (tmp_path / name for name in ("whole", "run", "cured"))
    pretrain(recipe, [corpus], whole, device="cpu")
    message = fail_at_step(recipe, corpus, folder, 2, fail)
    assert message == (
        "step 3: cpu has no memory left for 4 crops at a time; continue with --resume --set accumulation_steps=2"
    )
    assert load_checkpoint(folder / TRAINING).state["step"] == 2
    shutil.copytree(folder, cured)
    pretrain(recipe, [corpus], folder, resume=True, device="cpu")
    first, second = (load_file(each / TRAINING / "last.safetensors") for each in (whole, folder))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    pretrain(recipe, [corpus], cured, resume=True, device="cpu", changes={"accumulation_steps": 2})
    assert load_checkpoint(cured / TRAINING).state["step"] == 4


def test_out_of_memory_with_one_crop_at_a_time(micro, corpus, tmp_path):
    single = replace(micro, {"accumulation_steps": 4})
    message = fail_at_step(single, corpus, tmp_path / "x", 0, raise_as_a_gpu_does)
    assert message.endswith("for 1 crops at a time; one crop is too much; start anew with --set "
                            "activation_checkpointing=true")  # fmt: skip
