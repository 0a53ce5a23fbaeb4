"""A whole run: it ends as an encoder, learns, goes on bit for bit after SIGKILL, and refuses mixtures."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

import carrara
from carrara.core import settings
from carrara.core.errors import DataError, StoreError, UsageError
from carrara.core.settings import replace
from carrara.encoders._hub.load import load
from carrara.pretrain.metrics_log import read
from carrara.pretrain.run import pretrain

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finished(corpus, micro, tmp_path_factory):
    """An uninterrupted run of twelve steps."""
    return pretrain(micro, corpus, tmp_path_factory.mktemp("runs") / "finished", device="cpu")


def weights(folder):
    return load_file(folder / "training" / "last.safetensors")


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert not [name for name in one if not torch.equal(one[name], other[name])]


def plain(journal):
    """Return the journal's lines without what the clock decides."""
    clock = ("seconds", "audio_seconds_per_second")
    return [{key: value for key, value in line.items() if key not in clock} for line in read(journal)]


def test_a_run_ends_as_an_encoder_with_its_card(finished, micro):
    encoder = carrara.load(finished)
    assert encoder.card.name == "finished"
    assert encoder.settings == micro.network
    # (16000 − 640) // 80 + 1 = 193, then 95, then 47 frames.
    assert encoder(torch.zeros(1, 16_000)).shape == (1, 3, 47, 32)
    text = (finished / "README.md").read_text()
    assert "12 of 12 steps" in text
    assert json.loads((finished / "run.json").read_text())["corpus"]["identity"] in text


def test_the_weights_are_the_trained_ones(finished):
    trained = weights(finished)
    for name, tensor in carrara.load(finished).state_dict().items():
        assert torch.equal(tensor, trained[f"model.encoder.{name}"])
    random = load(f"{finished}:random").state_dict()
    assert any(not torch.equal(random[name], trained[f"model.encoder.{name}"]) for name in random)


def test_the_journal_tells_every_two_steps(finished):
    lines = read(finished / "journal.jsonl")
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    for key in ("loss", "loss/log-mel", "accuracy/chroma", "relative/cqt", "codes/log-mel", "rank/cnn", "rank/last"):
        assert all(key in line for line in lines)
    assert all(line["skipped"] == line["missing"] == 0 for line in lines)
    assert list((finished / "tensorboard").iterdir())


def test_killed_at_any_step_it_goes_on_bit_for_bit(finished, corpus, micro, tmp_path):
    """A child process is killed (SIGKILL) twice at arbitrary moments; what comes out equals the uninterrupted run."""
    folder, script = tmp_path / "finished", tmp_path / "child.py"
    (tmp_path / "recipe.json").write_text(micro.model_dump_json())
    script.write_text(
        "import json, sys, time\n"
        "from pathlib import Path\n"
        "from carrara.pretrain import loop, run\n"
        "from carrara.pretrain.recipes._base import Recipe\n"
        "from carrara.core.settings import read\n"
        "step = loop._step\n"
        "def slow(*arguments):\n"
        "    time.sleep(0.1)\n"
        "    return step(*arguments)\n"
        "loop._step = slow\n"
        f"recipe = read(Recipe, json.loads(Path({str(tmp_path / 'recipe.json')!r}).read_text()), 'test')\n"
        f"run.pretrain(recipe, {str(corpus)!r}, {str(folder)!r}, resume=True, device='cpu')\n"
    )
    for reached in (5, 9):
        child = subprocess.Popen(
            [sys.executable, script], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and child.poll() is None:
            lines = read(folder / "journal.jsonl")
            if lines and lines[-1]["step"] >= reached:
                break
            time.sleep(0.01)
        assert child.poll() is None
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert read(folder / "journal.jsonl")[-1]["step"] < 12
        assert carrara.load(folder).card.name == "finished"
    pretrain(micro, corpus, folder, resume=True, device="cpu")
    assert_equal(weights(folder), weights(finished))
    assert plain(folder / "journal.jsonl") == plain(finished / "journal.jsonl")


def test_a_checkpoint_cut_short_is_named_and_the_one_before_leads_to_the_same_end(finished, corpus, micro, tmp_path):
    folder = pretrain(micro, corpus, tmp_path / "finished", device="cpu")
    last = folder / "training" / "last.safetensors"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.warns(
        UserWarning, match="last.safetensors .* is not whole; going on from previous.safetensors, step 8"
    ):
        pretrain(micro, corpus, folder, resume=True, device="cpu")
    assert_equal(weights(folder), weights(finished))
    assert plain(folder / "journal.jsonl") == plain(finished / "journal.jsonl")


def test_an_interruption_writes_a_checkpoint_first(corpus, micro, finished, tmp_path, monkeypatch):
    from carrara.pretrain import loop

    step, taken = loop._step, []

    def press(*arguments):
        taken.append(1)
        if len(taken) == 3:
            signal.raise_signal(signal.SIGINT)
        return step(*arguments)

    monkeypatch.setattr(loop, "_step", press)
    with pytest.raises(KeyboardInterrupt):
        pretrain(micro, corpus, tmp_path / "finished", device="cpu")
    assert len(taken) == 3
    pretrain(micro, corpus, tmp_path / "finished", resume=True, device="cpu")
    assert len(taken) == 12
    assert_equal(weights(tmp_path / "finished"), weights(finished))


@pytest.mark.parametrize("place", ["carrara.pretrain.checkpoint.save_file", "carrara.formats.weights.save_file"])
def test_a_disk_that_fills_during_a_checkpoint_is_one_line_and_nothing_is_lost(
    place, corpus, micro, finished, tmp_path, monkeypatch
):
    module, _, name = place.rpartition(".")
    write, calls = getattr(sys.modules[module], name), []

    def filling(tensors, path, *more, **options):
        if any("conv" in tensor for tensor in tensors):
            calls.append(1)
        if len(calls) == 2:
            path.write_bytes(b"some of it")
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        write(tensors, path, *more, **options)

    monkeypatch.setattr(place, filling)
    with pytest.raises(StoreError, match="cannot write here .*No space left on device.*; make room and resume") as told:
        pretrain(micro, corpus, tmp_path / "finished", device="cpu")
    assert "\n" not in str(told.value)
    monkeypatch.undo()
    assert carrara.load(tmp_path / "finished").card.name == "finished"
    pretrain(micro, corpus, tmp_path / "finished", resume=True, device="cpu")
    assert_equal(weights(tmp_path / "finished"), weights(finished))


def test_a_teacher_that_moves_is_saved_and_goes_on_exactly(corpus, micro, tmp_path, monkeypatch):
    from carrara.pretrain import loop

    values = micro.model_dump() | {"targets": {"slow": {"target": "teacher", "top": 2, "decay": 0.5}}, "steps": 6}
    taught = settings.parse_settings(type(micro), values, "test")
    whole = weights(pretrain(taught, corpus, tmp_path / "whole", device="cpu"))
    assert not torch.equal(
        whole["moving.slow.average.layers.0.layer_norm.weight"],
        whole["model.encoder.encoder.layers.0.layer_norm.weight"],
    )
    step = loop._step

    def press(run, *arguments):
        if run.step == 2:
            signal.raise_signal(signal.SIGINT)
        return step(run, *arguments)

    monkeypatch.setattr(loop, "_step", press)
    with pytest.raises(KeyboardInterrupt):
        pretrain(taught, corpus, tmp_path / "half", device="cpu")
    monkeypatch.undo()
    pretrain(taught, corpus, tmp_path / "half", resume=True, device="cpu")
    assert_equal(weights(tmp_path / "half"), whole)
    assert read(tmp_path / "half" / "journal.jsonl")[-1]["deviation/target/slow"] > 0


def test_a_run_of_an_earlier_version_goes_on_with_defaults_for_what_it_did_not_know(finished, corpus, micro):
    path = finished / "run.json"
    content = json.loads(path.read_text())
    for name in ("mixup", "augment", "recovery", "parts", "recompute", "shard", "loss_scale", "timeout_seconds"):
        del content["recipe"][name]
    path.write_text(json.dumps(content))
    assert pretrain(micro, corpus, finished, resume=True, device="cpu") == finished
    assert json.loads(path.read_text())["recipe"]["parts"] == 1


def test_a_finished_run_is_left_alone(finished, corpus, micro):
    before = (finished / "training" / "last.safetensors").stat().st_mtime_ns
    assert pretrain(micro, corpus, finished, resume=True, device="cpu") == finished
    assert (finished / "training" / "last.safetensors").stat().st_mtime_ns == before


def test_mixtures_are_refused_by_name(finished, corpus, micro, tmp_path):
    with pytest.raises(StoreError, match="holds a run already; go on with --resume"):
        pretrain(micro, corpus, finished, device="cpu")
    other = replace(micro, {"masking.mask_length": 3, "batch": 5})
    with pytest.raises(StoreError, match="another recipe: masking.mask_length was 5, now 3 and 1 more"):
        pretrain(other, corpus, finished, resume=True, device="cpu")
    with pytest.raises(StoreError, match="another corpus: 10 files of .* s then, 4 of .* s now"):
        pretrain(micro, corpus / "0", finished, resume=True, device="cpu")
    watched = replace(micro, {"log_every": 3, "checkpoint_every": 6})
    assert pretrain(watched, corpus, finished, resume=True, device="cpu") == finished


def test_a_step_that_is_not_finite_is_skipped_and_counted(corpus, micro, tmp_path, monkeypatch):
    from carrara.pretrain.corpus.stream import Stream

    def loud(self, item, start):
        samples = read_crop(self, item, start)
        return samples * float("inf") if item == 2 else samples

    read_crop = Stream._read
    monkeypatch.setattr(Stream, "_read", loud)
    monkeypatch.setattr("carrara.pretrain.label_checks.check", lambda *arguments: None)
    short = replace(micro, {"steps": 4, "targets.log-mel.k": 2, "targets.chroma.k": 2})
    monkeypatch.setattr("carrara.pretrain.fit_targets._fit", lambda *arguments: {})
    folder = pretrain(short, corpus, tmp_path / "x", device="cpu")
    assert 1 <= sum(line["skipped"] for line in read(folder / "journal.jsonl")) < 4
    assert all(torch.isfinite(tensor).all() for tensor in carrara.load(folder).state_dict().values())


def test_settings_that_cannot_be_met_are_refused(corpus, micro, tmp_path):
    cases = [
        ({"crop_seconds": 0.1}, UsageError, "too few for spans of 5; use 0.3 or more"),
        ({"targets.log-mel.k": 50_000}, UsageError, "50000 clusters cannot be had from"),
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
