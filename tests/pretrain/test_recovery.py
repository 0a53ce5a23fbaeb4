"""A bad batch is skipped and logged; after several the run rolls back and ends as if it had never read them."""

import math
import signal

import pytest
import torch
from safetensors.torch import load_file

from carrara.core.errors import DataError
from carrara.core.settings import replace
from carrara.pretrain.corpus.stream import CropStream
from carrara.pretrain.metrics_log import read_events, read_metrics
from carrara.pretrain.recipes._base import RecoverySettings
from carrara.pretrain.recovery import SpikeGuard
from carrara.pretrain.run import pretrain

pytestmark = pytest.mark.slow

BAD = (6, 7)


def assert_same_weights(folder, other):
    first, second = (load_file(each / "training" / "last.safetensors") for each in (folder, other))
    assert first.keys() == second.keys()
    assert not [name for name in first if not torch.equal(first[name], second[name])]


def amplify(monkeypatch, steps, factor):
    """Make the training batches of those steps louder by a factor, and return the list of batches that a run reads."""
    iter_batches, read = CropStream.iter_batches, []

    def amplified(self, *arguments):
        for batch in iter_batches(self, *arguments):
            if self.batch_size == 4:  # the targets are fitted on larger batches
                read.append(batch.step)
                if batch.step in steps:
                    batch.samples_BT.mul_(factor)
            yield batch

    monkeypatch.setattr(CropStream, "iter_batches", amplified)
    return read


def test_steps_far_above_the_median_are_skipped():
    guard = SpikeGuard(RecoverySettings(spike_norm=10, spike_loss=2, window=3))
    for loss, norm in ((5.0, 1.0), (4.0, 3.0), (3.0, 2.0)):
        assert guard.skip_reason(1000.0, 1000.0) == ""
        guard.record(loss, norm)
    assert guard.skip_reason(7.9, 19.9) == ""
    assert guard.skip_reason(8.1, 1.0) == "loss 8.1 above 2 times the median 4"
    assert guard.skip_reason(4.0, 20.1) == "gradient norm 20.1 above 10 times the median 2"
    assert guard.skip_reason(math.nan, 1.0) == "loss nan"
    assert guard.skip_reason(4.0, math.inf) == "gradient norm inf"


def test_a_bad_batch_is_skipped_and_its_files_are_logged(corpus, micro, tmp_path, monkeypatch):
    # The target is a logarithm of magnitudes: a thousandfold loudness is far from what the student predicts.
    amplify(monkeypatch, (7,), 1000.0)
    careful = replace(micro, {"recovery.spike_loss": 2.0, "recovery.window": 4})
    log = pretrain(careful, corpus, tmp_path / "x", device="cpu") / "metrics.jsonl"
    (event,) = read_events(log)
    assert (event["step"], event["event"], event["batch"]) == (8, "skipped", 7)
    assert event["why"].startswith("loss ") and "above 2 times the median" in event["why"]
    names = {path.relative_to(corpus).as_posix() for path in corpus.rglob("*.flac")}
    assert len(event["files"]) == 4
    assert set(event["files"]) <= names
    assert [line["skipped"] for line in read_metrics(log)] == [0, 0, 0, 1, 0, 0]


@pytest.fixture(scope="module")
def rollback_recipe(micro):
    return replace(micro, {"recovery.max_consecutive_skips": 2})


@pytest.fixture
def rolled_back(corpus, rollback_recipe, tmp_path, monkeypatch):
    read = amplify(monkeypatch, BAD, math.nan)
    return pretrain(rollback_recipe, corpus, tmp_path / "finished", device="cpu"), read


def test_after_two_bad_batches_the_run_rolls_back_and_leaves_the_batches_out(rolled_back):
    folder, read = rolled_back
    assert read == list(range(16))
    events = read_events(folder / "metrics.jsonl")
    assert [(event["step"], event["event"]) for event in events] == [(7, "skipped"), (8, "skipped"), (4, "rolled back")]
    assert (events[2]["from"], events[2]["skipped_batches"]) == (8, 4)
    assert [line["step"] for line in read_metrics(folder / "metrics.jsonl")] == [2, 4, 6, 8, 10, 12]
    assert all(line["skipped"] == 0 for line in read_metrics(folder / "metrics.jsonl"))


def test_the_weights_are_those_of_a_run_without_the_bad_batches(
    rolled_back, corpus, rollback_recipe, tmp_path, monkeypatch
):
    folder, _ = rolled_back
    monkeypatch.undo()
    iter_batches = CropStream.iter_batches

    def without(self, first, end, *ranks):
        if self.batch_size != 4:
            yield from iter_batches(self, first, end, *ranks)
            return
        yield from iter_batches(self, 0, 4, *ranks)
        yield from iter_batches(self, 8, 16, *ranks)

    monkeypatch.setattr(CropStream, "iter_batches", without)
    reference = pretrain(rollback_recipe, corpus, tmp_path / "other", device="cpu")
    assert_same_weights(folder, reference)


def test_resumed_after_a_roll_back_it_continues_with_the_later_batches(
    rolled_back, corpus, rollback_recipe, tmp_path, monkeypatch, before_optimiser_steps
):
    folder, _ = rolled_back
    monkeypatch.undo()
    read = amplify(monkeypatch, BAD, math.nan)
    # Batches 0 to 5, then 8 and 9: the eighth optimiser step is that of batch 9.
    before_optimiser_steps(lambda number: signal.raise_signal(signal.SIGINT) if number == 8 else None)
    with pytest.raises(KeyboardInterrupt):
        pretrain(rollback_recipe, corpus, tmp_path / "again", device="cpu")
    again = pretrain(rollback_recipe, corpus, tmp_path / "again", resume=True, device="cpu")
    assert read == list(range(16))
    assert_same_weights(folder, again)
    assert [event["event"] for event in read_events(again / "metrics.jsonl")] == ["skipped", "skipped", "rolled back"]


def test_a_run_that_fails_again_and_again_stops_with_one_line(corpus, rollback_recipe, tmp_path, monkeypatch):
    amplify(monkeypatch, range(6, 100), math.nan)
    with pytest.raises(DataError, match="rolled back 2 times and fails again"):
        pretrain(replace(rollback_recipe, {"recovery.max_rollbacks": 2}), corpus, tmp_path / "x", device="cpu")
    assert [event["event"] for event in read_events(tmp_path / "x" / "metrics.jsonl")].count("rolled back") == 2


def test_collapse_stops_the_run(corpus, micro, tmp_path):
    strict = replace(micro, {"recovery.min_prediction_std": 1e6, "recovery.collapse_check_after": 4})
    with pytest.raises(DataError, match="step 4: collapse: std/prediction/cqt is .*, below 1e.06"):
        pretrain(strict, corpus, tmp_path / "x", device="cpu")
    # The message's second cure, on the same folder.
    later = replace(strict, {"recovery.collapse_check_after": 1000})
    assert pretrain(later, corpus, tmp_path / "x", device="cpu", resume=True) == tmp_path / "x"
