"""A whole run: it ends as an encoder, resumes bit for bit after SIGKILL, and refuses mixtures."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

import carrara
from carrara.core import settings
from carrara.core.errors import DataError, StoreError, UsageError
from carrara.core.settings import replace
from carrara.encoders._hub.load import load
from carrara.pretrain.corpus.stream import CropStream
from carrara.pretrain.metrics_log import read_events, read_metrics
from carrara.pretrain.run import pretrain

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finished(corpus, micro, tmp_path_factory):
    """An uninterrupted run of twelve steps."""
    return pretrain(micro, corpus, tmp_path_factory.mktemp("runs") / "finished", device="cpu")


def weights(folder):
    return load_file(folder / "training" / "last.safetensors")


def assert_equal(first, second):
    assert first.keys() == second.keys()
    assert not [name for name in first if not torch.equal(first[name], second[name])]


def metrics_without_times(log):
    """Return the metrics of a log without those of the clock."""
    clock = ("seconds", "audio_hours_per_hour", "flops_per_second", "data_wait_fraction", "eta_seconds")
    return [{key: value for key, value in line.items() if key not in clock} for line in read_metrics(log)]


def test_a_run_ends_as_an_encoder_with_its_card(finished, micro):
    encoder = carrara.load(finished)
    assert encoder.card.name == "finished"
    assert encoder.settings == micro.network
    # (16000 − 640) // 80 + 1 = 193, then 95, then 47 frames.
    assert encoder(torch.zeros(1, 16_000)).shape == (1, 3, 47, 32)
    text = (finished / "README.md").read_text()
    assert "12 of 12 steps" in text
    assert json.loads((finished / "run.json").read_text())["corpus"]["identity"] in text


def test_the_card_says_what_the_encoder_was_trained_on_and_to_do(finished, corpus, micro):
    card = load(finished).card
    readable = [soundfile.info(path).duration for path in sorted(corpus.rglob("*.flac"))]
    assert card.training_hours == pytest.approx([sum(readable) / 3600] * 2, rel=1e-6)
    assert card.pretraining_task == "masked prediction of log-mel, chroma, cqt"
    assert card.context_seconds == micro.crop_seconds
    assert card.input == "waveform" and card.network == "3 convolutions, 2 Transformer layers"


def test_the_weights_are_the_trained_ones(finished):
    trained = weights(finished)
    for name, tensor in carrara.load(finished).state_dict().items():
        assert torch.equal(tensor, trained[f"model.encoder.{name}"])
    random = load(f"{finished}:random").state_dict()
    assert any(not torch.equal(random[name], trained[f"model.encoder.{name}"]) for name in random)


def test_the_log_has_a_line_every_two_steps(finished):
    lines = read_metrics(finished / "metrics.jsonl")
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    for key in (
        "loss",
        "loss/log-mel",
        "accuracy/chroma",
        "relative_mse/cqt",
        "classes_used/log-mel",
        "rank/cnn",
        "rank/last",
    ):
        assert all(key in line for line in lines)
    assert all(line["skipped"] == line["missing"] == 0 for line in lines)
    assert list((finished / "tensorboard").iterdir())


def test_the_log_has_the_speed_the_waiting_and_the_time_that_remains(finished, micro):
    lines = read_metrics(finished / "metrics.jsonl")
    before = 0.0
    for line in lines:
        seconds, before = line["seconds"] - before, line["seconds"]
        audio = line["steps"] * micro.batch * micro.crop_seconds
        assert line["audio_hours_per_hour"] == pytest.approx(audio / seconds)
        assert line["eta_seconds"] == pytest.approx((12 - line["step"]) * seconds / line["steps"])
        assert 0 <= line["data_wait_fraction"] < 1
    assert lines[-1]["eta_seconds"] == 0


@pytest.mark.slow
def test_a_resumed_run_may_change_what_cures_it_and_the_log_says_so(corpus, micro, tmp_path):
    folder = tmp_path / "x"
    half = pretrain(replace(micro, {"checkpoint_every": 6}), corpus, folder, device="cpu")
    (half / "training" / "previous.safetensors").replace(half / "training" / "last.safetensors")
    changes = {
        "optimiser.learning_rate": 1e-4, "optimiser.max_grad_norm": 0.5, "optimiser.warmup_fraction": 0.5,
        "precision": "float16", "accumulation_steps": 2, "log_every": 1, "checkpoint_every": 4,
    }  # fmt: skip
    pretrain(replace(micro, changes), corpus, folder, resume=True, device="cpu")
    events = read_events(folder / "metrics.jsonl")
    assert {(event["event"], event["step"]) for event in events} == {("changed", 6)}
    assert {event["setting"]: event["now"] for event in events} == changes
    (norm,) = [event for event in events if event["setting"] == "optimiser.max_grad_norm"]
    assert norm["was"] == micro.optimiser.max_grad_norm
    lines = read_metrics(folder / "metrics.jsonl")
    # The sixth step of six of warm-up was the last; a loss scale appears with half precision.
    assert lines[-1]["learning_rate"] == pytest.approx(1e-4 / 6)
    assert [("loss_scale" in line) for line in lines if line["step"] > 6] == [True] * 6
    assert lines[-1]["clipped_fraction"] == 1.0
    # Resumed once more with the same settings, nothing changes.
    pretrain(replace(micro, changes), corpus, folder, resume=True, device="cpu")
    assert read_events(folder / "metrics.jsonl") == events
    with pytest.raises(StoreError, match="has another recipe: optimiser.weight_decay was 0.01, now 0.1; go on with"):
        pretrain(replace(micro, {**changes, "optimiser.weight_decay": 0.1}), corpus, folder, resume=True, device="cpu")


@pytest.mark.slow
def test_killed_at_any_step_it_resumes_bit_for_bit(finished, corpus, micro, tmp_path):
    """A child process is killed (SIGKILL) twice at arbitrary moments; the result equals the uninterrupted run."""
    folder, script = tmp_path / "finished", tmp_path / "child.py"
    (tmp_path / "recipe.json").write_text(micro.model_dump_json())
    script.write_text(
        "import json, sys, time\n"
        "from pathlib import Path\n"
        "from torch.optim.optimizer import register_optimizer_step_pre_hook\n"
        "from carrara.core.settings import parse_settings\n"
        "from carrara.pretrain.recipes._base import Recipe\n"
        "from carrara.pretrain.run import pretrain\n"
        "from carrara.pretrain.metrics_log import read_metrics\n"
        "def wait(*_):\n"
        f"    lines = read_metrics(Path({str(folder / 'metrics.jsonl')!r}))\n"
        "    if lines and lines[-1]['step'] >= int(sys.argv[1]):\n"
        "        time.sleep(600)\n"
        "register_optimizer_step_pre_hook(wait)\n"
        f"recipe = parse_settings(Recipe, json.loads(Path({str(tmp_path / 'recipe.json')!r}).read_text()), 'test')\n"
        f"pretrain(recipe, {str(corpus)!r}, {str(folder)!r}, resume=True, device='cpu')\n"
    )
    for reached in (5, 9):
        child = subprocess.Popen(
            [sys.executable, script, str(reached)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        )
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and child.poll() is None:
            lines = read_metrics(folder / "metrics.jsonl")
            if lines and lines[-1]["step"] >= reached:
                break
            time.sleep(0.01)
        assert child.poll() is None
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert read_metrics(folder / "metrics.jsonl")[-1]["step"] < 12
        assert carrara.load(folder).card.name == "finished"
    pretrain(micro, corpus, folder, resume=True, device="cpu")
    assert_equal(weights(folder), weights(finished))
    assert metrics_without_times(folder / "metrics.jsonl") == metrics_without_times(finished / "metrics.jsonl")


@pytest.mark.slow
def test_a_checkpoint_cut_short_is_named_and_the_one_before_leads_to_the_same_end(finished, corpus, micro, tmp_path):
    folder = pretrain(micro, corpus, tmp_path / "finished", device="cpu")
    last = folder / "training" / "last.safetensors"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.warns(
        UserWarning, match="last.safetensors .* is not whole; going on from previous.safetensors, step 8"
    ):
        pretrain(micro, corpus, folder, resume=True, device="cpu")
    assert_equal(weights(folder), weights(finished))
    assert metrics_without_times(folder / "metrics.jsonl") == metrics_without_times(finished / "metrics.jsonl")


def test_an_interruption_writes_a_checkpoint_first(corpus, micro, finished, tmp_path, before_optimiser_steps):
    taken = []

    def press(number):
        taken.append(number)
        if number == 3:
            signal.raise_signal(signal.SIGINT)

    before_optimiser_steps(press)
    with pytest.raises(KeyboardInterrupt):
        pretrain(micro, corpus, tmp_path / "finished", device="cpu")
    assert len(taken) == 3
    pretrain(micro, corpus, tmp_path / "finished", resume=True, device="cpu")
    assert len(taken) == 12
    assert_equal(weights(tmp_path / "finished"), weights(finished))


@pytest.mark.slow
@pytest.mark.parametrize("function", ["carrara.pretrain.checkpoint.save_file", "carrara.formats.weights.save_file"])
def test_a_disk_that_fills_during_a_checkpoint_is_one_line_and_nothing_is_lost(
    function, corpus, micro, finished, tmp_path, monkeypatch
):
    module, _, name = function.rpartition(".")
    write, calls = getattr(sys.modules[module], name), []

    def filling(tensors, path, *more, **options):
        if any("conv" in tensor for tensor in tensors):
            calls.append(1)
        if len(calls) == 2:
            path.write_bytes(b"a part")
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        write(tensors, path, *more, **options)

    monkeypatch.setattr(function, filling)
    with pytest.raises(
        StoreError, match="cannot write here .*No space left on device.*; make room and go on with --resume"
    ) as error:
        pretrain(micro, corpus, tmp_path / "finished", device="cpu")
    assert "\n" not in str(error.value)
    monkeypatch.undo()
    assert carrara.load(tmp_path / "finished").card.name == "finished"
    pretrain(micro, corpus, tmp_path / "finished", resume=True, device="cpu")
    assert_equal(weights(tmp_path / "finished"), weights(finished))


def test_an_ema_teacher_is_saved_and_resumed_exactly(corpus, micro, tmp_path, before_optimiser_steps):
    values = micro.model_dump() | {
        "targets": {"slow": {"target": "teacher", "top_layers": 2, "decay": 0.5}},
        "steps": 6,
    }
    recipe = settings.parse_settings(type(micro), values, "test")
    whole = weights(pretrain(recipe, corpus, tmp_path / "whole", device="cpu"))
    assert not torch.equal(
        whole["ema.slow.average.layers.0.layer_norm.weight"],
        whole["model.encoder.encoder.layers.0.layer_norm.weight"],
    )
    before_optimiser_steps(lambda number: signal.raise_signal(signal.SIGINT) if number == 3 else None)
    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe, corpus, tmp_path / "half", device="cpu")
    pretrain(recipe, corpus, tmp_path / "half", resume=True, device="cpu")
    assert_equal(weights(tmp_path / "half"), whole)
    assert read_metrics(tmp_path / "half" / "metrics.jsonl")[-1]["std/target/slow"] > 0


def test_settings_that_run_json_lacks_have_their_defaults(finished, corpus, micro):
    path = finished / "run.json"
    content = json.loads(path.read_text())
    for name in ("recovery", "accumulation_steps", "fsdp", "compile", "timeout_seconds"):
        del content["recipe"][name]
    path.write_text(json.dumps(content))
    assert pretrain(micro, corpus, finished, resume=True, device="cpu") == finished
    assert json.loads(path.read_text())["recipe"]["accumulation_steps"] == 1


def test_a_finished_run_is_left_alone(finished, corpus, micro):
    before = (finished / "training" / "last.safetensors").stat().st_mtime_ns
    assert pretrain(micro, corpus, finished, resume=True, device="cpu") == finished
    assert (finished / "training" / "last.safetensors").stat().st_mtime_ns == before


def test_mixtures_are_refused_by_name(finished, corpus, micro, tmp_path):
    with pytest.raises(StoreError, match="holds a run already; go on with --resume"):
        pretrain(micro, corpus, finished, device="cpu")
    other = replace(micro, {"masking.mask_length": 3, "batch": 5})
    with pytest.raises(StoreError, match="has another recipe: batch was 4, now 5 and 1 more"):
        pretrain(other, corpus, finished, resume=True, device="cpu")
    with pytest.raises(StoreError, match="has another corpus: 10 files of .* s then, 4 of .* s now"):
        pretrain(micro, corpus / "0", finished, resume=True, device="cpu")
    other_intervals = replace(micro, {"log_every": 3, "checkpoint_every": 6})
    assert pretrain(other_intervals, corpus, finished, resume=True, device="cpu") == finished


def test_a_step_that_is_not_finite_is_skipped_and_counted(corpus, micro, tmp_path, monkeypatch):
    iter_batches = CropStream.iter_batches

    def infinite(self, *arguments):
        for batch in iter_batches(self, *arguments):
            if self.batch_size == 4 and batch.step == 2:  # the targets are fitted on larger batches
                batch.samples_BT[0, 100] = math.inf
            yield batch

    monkeypatch.setattr(CropStream, "iter_batches", infinite)
    folder = pretrain(micro, corpus, tmp_path / "x", steps=4, device="cpu")
    assert [line["skipped"] for line in read_metrics(folder / "metrics.jsonl")] == [0, 1]
    assert all(torch.isfinite(tensor).all() for tensor in carrara.load(folder).state_dict().values())


def test_settings_that_cannot_be_met_are_refused(corpus, micro, tmp_path):
    cases = [
        ({"crop_seconds": 0.1}, UsageError, "too few for masks of 5; give --set crop_seconds=0.3 or more"),
        ({"targets.log-mel.k": 50_000}, UsageError, "50000 clusters need at least"),
        ({"targets.cqt.bins": 120}, UsageError, "120"),
        ({"crop_seconds": 60}, DataError, "no file is as long as a crop of 60 s"),
    ]
    for number, (changes, kind, words) in enumerate(cases):
        with pytest.raises(kind, match=words):
            pretrain(micro, corpus, tmp_path / str(number), changes=changes, device="cpu")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="is a file; choose a folder"):
        pretrain(micro, corpus, tmp_path / "file", device="cpu")


def test_a_silent_corpus_is_refused(micro, tmp_path):
    import numpy as np
    import soundfile

    (tmp_path / "music").mkdir()
    for number in range(3):
        soundfile.write(tmp_path / "music" / f"{number}.wav", np.zeros(40_000), 16_000)
    with pytest.raises(DataError, match="target log-mel: gives class . everywhere; is the corpus silent"):
        pretrain(micro, tmp_path / "music", tmp_path / "out", device="cpu")
