"""accumulation_steps=auto: what fits, with the result of the number chosen; torch.compile; one run to a folder."""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from carrara.core.errors import StoreError, UsageError
from carrara.core.settings import replace
from carrara.pretrain.distributed import Dist
from carrara.pretrain.division import available_memory, choose_accumulation_steps
from carrara.pretrain.recipes._base import resolve
from carrara.pretrain.run import build_run, pretrain

CODEC = {
    "network.filters": 4, "network.latent": 8, "network.num_codebooks": 2, "network.codebook_size": 16,
    "crop_seconds": 1.0, "batch": 4, "steps": 2,
}  # fmt: skip
CHILD = """
import json, sys
from pathlib import Path
from carrara.core.settings import parse_settings
from carrara.pretrain.recipes._base import Recipe
from carrara.pretrain.run import pretrain
recipe = parse_settings(Recipe, json.loads(Path(sys.argv[1]).read_text()), "test")
pretrain(recipe, sys.argv[2], sys.argv[3], device="cpu", resume=True, trackers=())
"""


def weights(folder):
    return load_file(folder / "training" / "last.safetensors")


def assert_equal(first, second):
    first, second = weights(first), weights(second)
    assert first.keys() == second.keys()
    assert not [name for name in first if not torch.equal(first[name], second[name])]


@pytest.fixture
def run(micro, corpus, tmp_path):
    run = build_run(replace(micro, {"batch": 8}), [corpus], tmp_path / "x", False, Dist())
    yield run
    run.log.close()


def test_fewer_bytes_take_more_micro_batches(run):
    steps = [choose_accumulation_steps(run.objective, 10**power) for power in (12, 8, 7, 5)]
    assert steps == sorted(steps) and steps[0] == 1 and steps[-1] == 8
    # Twice the memory of two micro-batches suffices for one.
    most = next(size for size in range(10**6, 10**8, 2 * 10**6) if choose_accumulation_steps(run.objective, size) == 4)
    assert choose_accumulation_steps(run.objective, 4 * most) == 1


def test_probing_changes_nothing(run):
    module = run.objective.module
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = torch.get_rng_state()
    choose_accumulation_steps(run.objective, 10**8)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_auto_trains_as_the_number_does_and_a_resumed_run_keeps_it(micro, corpus, tmp_path, monkeypatch, capsys):
    short = replace(micro, {"steps": 2, "checkpoint_every": 1})
    auto = replace(short, {"accumulation_steps": "auto"})
    monkeypatch.setattr("carrara.pretrain.run.available_memory", lambda device: 10**5)
    pretrain(auto, corpus, tmp_path / "auto", device="cpu")
    assert "accumulation_steps=4 fits cpu" in capsys.readouterr().err
    assert json.loads((tmp_path / "auto" / "run.json").read_text())["recipe"]["accumulation_steps"] == 4
    monkeypatch.undo()
    pretrain(replace(short, {"accumulation_steps": 4}), corpus, tmp_path / "four", device="cpu")
    assert_equal(tmp_path / "auto", tmp_path / "four")
    training = tmp_path / "auto" / "training"
    (training / "previous.safetensors").replace(training / "last.safetensors")
    pretrain(auto, corpus, tmp_path / "auto", resume=True, device="cpu")
    assert "fits" not in capsys.readouterr().err
    assert json.loads((tmp_path / "auto" / "run.json").read_text())["recipe"]["accumulation_steps"] == 4
    assert_equal(tmp_path / "auto", tmp_path / "four")
    with pytest.raises(UsageError, match="accumulation_steps=auto cannot probe sharded weights"):
        pretrain(replace(auto, {"fsdp": True}), corpus, tmp_path / "sharded", device="cpu")
    assert not (tmp_path / "sharded").exists()


def test_a_codec_starts_from_the_same_codes(corpus, tmp_path):
    recipe = resolve("rvq-vae", "tiny", CODEC)
    pretrain(replace(recipe, {"accumulation_steps": "auto"}), corpus, tmp_path / "auto", device="cpu")
    pretrain(recipe, corpus, tmp_path / "one", device="cpu")
    assert_equal(tmp_path / "auto", tmp_path / "one")


def test_limits_of_the_process_count():
    before = available_memory(torch.device("cpu"))
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    status = Path("/proc/self/status").read_text()
    mapped = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmSize"))
    resource.setrlimit(resource.RLIMIT_AS, (1024 * mapped + 2**24, hard))
    try:
        limited = available_memory(torch.device("cpu"))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert 0 <= limited <= 2**24 < before


@pytest.mark.slow
def test_a_compiled_run_has_plain_keys_and_the_weights_of_an_eager_one(micro, corpus, tmp_path):
    recipe = replace(micro, {"steps": 4, "checkpoint_every": 2, "network.dropout": 0.0})
    compiled = replace(recipe, {"compile": True})
    pretrain(recipe, corpus, tmp_path / "eager", device="cpu")
    pretrain(compiled, corpus, tmp_path / "compiled", device="cpu")
    eager, ours = weights(tmp_path / "eager"), weights(tmp_path / "compiled")
    assert eager.keys() == ours.keys() and not [name for name in ours if "_orig_mod" in name]
    for name, tensor in eager.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
    # Resumed compiled it goes on; eager goes on with it too.
    training = tmp_path / "compiled" / "training"
    (training / "previous.safetensors").replace(training / "last.safetensors")
    pretrain(recipe, corpus, tmp_path / "compiled", resume=True, device="cpu")
    for name, tensor in eager.items():
        torch.testing.assert_close(weights(tmp_path / "compiled")[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.slow
def test_a_second_run_in_the_same_folder_is_refused_and_a_killed_one_is_no_obstacle(micro, corpus, tmp_path):
    folder, recipe = tmp_path / "x", replace(micro, {"steps": 400})
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    arguments = [str(tmp_path / "recipe.json"), str(corpus), str(folder)]
    child = subprocess.Popen([sys.executable, "-c", CHILD, *arguments], stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 300
        while not (folder / "training" / "last.safetensors").exists():
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        with pytest.raises(StoreError, match=f"{folder}: another process is training here; wait until it is done"):
            pretrain(recipe, corpus, folder, resume=True, device="cpu")
    finally:
        child.kill()
        child.communicate()
    resumed = replace(recipe, {"steps": 400})
    with pytest.raises(StoreError, match="holds a run already; go on with --resume"):
        pretrain(resumed, corpus, folder, device="cpu")
