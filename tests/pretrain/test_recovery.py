"""A bad batch is skipped and told; after several the run goes back, and does what it would have done without them."""

import math
import signal

import pytest
import torch
from safetensors.torch import load_file

from carrara.core.errors import DataError
from carrara.core.settings import replace
from carrara.pretrain import loop
from carrara.pretrain.corpus.stream import Stream
from carrara.pretrain.metrics_log import events, read
from carrara.pretrain.recipes._base import RecoverySettings
from carrara.pretrain.recovery import Watch
from carrara.pretrain.run import pretrain

BAD = (6, 7)


def spoil(monkeypatch, steps, factor):
    """Make the batches of those steps louder by a factor, and return the list of batches that a run hears."""
    batches, heard = Stream.batches, []

    def spoilt(self, *arguments):
        for batch in batches(self, *arguments):
            if batch.step in steps:
                batch.samples_BT.mul_(factor)
            if self.batch == 4:  # not the batches that targets are fitted on
                heard.append(batch.step)
            yield batch

    monkeypatch.setattr(Stream, "batches", spoilt)
    return heard


def test_steps_far_above_the_median_are_judged_so():
    watch = Watch(RecoverySettings(spike_norm=10, spike_loss=2, window=3))
    for loss, norm in ((5.0, 1.0), (4.0, 3.0), (3.0, 2.0)):
        assert watch.judge(1000.0, 1000.0) == ""
        watch.taken(loss, norm)
    assert watch.judge(7.9, 19.9) == ""
    assert watch.judge(8.1, 1.0) == "loss 8.1 above 2 times the median 4"
    assert watch.judge(4.0, 20.1) == "gradient norm 20.1 above 10 times the median 2"
    assert watch.judge(math.nan, 1.0) == "loss nan"
    assert watch.judge(4.0, math.inf) == "gradient norm inf"


def test_a_bad_batch_is_skipped_and_its_files_are_told(corpus, micro, tmp_path, monkeypatch):
    # The target is a logarithm of magnitudes: a thousandfold loudness is far off what the student has learnt.
    spoil(monkeypatch, (7,), 1000.0)
    careful = replace(micro, {"recovery.spike_loss": 2.0, "recovery.window": 4})
    journal = pretrain(careful, corpus, tmp_path / "x", device="cpu") / "journal.jsonl"
    (told,) = events(journal)
    assert (told["step"], told["event"], told["batch"]) == (8, "skipped", 7)
    assert told["why"].startswith("loss ") and "above 2 times the median" in told["why"]
    names = {path.relative_to(corpus).as_posix() for path in corpus.rglob("*.flac")}
    assert len(told["files"]) == 4
    assert set(told["files"]) <= names
    assert [line["skipped"] for line in read(journal)] == [0, 0, 0, 1, 0, 0]


@pytest.fixture(scope="module")
def patient(micro):
    return replace(micro, {"recovery.max_consecutive_skips": 2})


@pytest.fixture
def gone_back(corpus, patient, tmp_path, monkeypatch):
    heard = spoil(monkeypatch, BAD, math.nan)
    return pretrain(patient, corpus, tmp_path / "finished", device="cpu"), heard


def test_after_two_bad_batches_the_run_goes_back_and_leaves_the_data_out(gone_back):
    folder, heard = gone_back
    assert heard == list(range(16))
    told = events(folder / "journal.jsonl")
    assert [(one["step"], one["event"]) for one in told] == [(7, "skipped"), (8, "skipped"), (4, "rolled back")]
    assert (told[2]["from"], told[2]["left_out"]) == (8, 4)
    assert [line["step"] for line in read(folder / "journal.jsonl")] == [2, 4, 6, 8, 10, 12]
    assert all(line["skipped"] == 0 for line in read(folder / "journal.jsonl"))


def test_what_comes_out_is_what_a_run_gives_that_never_heard_them(gone_back, corpus, patient, tmp_path, monkeypatch):
    folder, _ = gone_back
    monkeypatch.undo()
    batches = Stream.batches

    def without(self, first, end, *ranks):
        if self.batch != 4:
            yield from batches(self, first, end, *ranks)
            return
        yield from batches(self, 0, 4, *ranks)
        yield from batches(self, 8, 16, *ranks)

    monkeypatch.setattr(Stream, "batches", without)
    reference = pretrain(patient, corpus, tmp_path / "other", device="cpu")
    one, other = (load_file(each / "training" / "last.safetensors") for each in (folder, reference))
    assert not [name for name in one if not torch.equal(one[name], other[name])]


def test_resumed_after_a_roll_back_it_goes_on_with_the_later_data(gone_back, corpus, patient, tmp_path, monkeypatch):
    folder, _ = gone_back
    monkeypatch.undo()
    heard, step = spoil(monkeypatch, BAD, math.nan), loop._step

    def press(run, batch, *rest):
        if batch.step == 9:
            signal.raise_signal(signal.SIGINT)
        return step(run, batch, *rest)

    monkeypatch.setattr(loop, "_step", press)
    with pytest.raises(KeyboardInterrupt):
        pretrain(patient, corpus, tmp_path / "again", device="cpu")
    monkeypatch.setattr(loop, "_step", step)
    again = pretrain(patient, corpus, tmp_path / "again", resume=True, device="cpu")
    assert heard == list(range(16))
    one, other = (load_file(each / "training" / "last.safetensors") for each in (folder, again))
    assert not [name for name in one if not torch.equal(one[name], other[name])]
    assert [one["event"] for one in events(again / "journal.jsonl")] == ["skipped", "skipped", "rolled back"]


def test_a_run_that_fails_again_and_again_gives_up_in_one_line(corpus, patient, tmp_path, monkeypatch):
    spoil(monkeypatch, range(6, 100), math.nan)
    with pytest.raises(DataError, match="went back 2 times and fails again"):
        pretrain(replace(patient, {"recovery.max_rollbacks": 2}), corpus, tmp_path / "x", device="cpu")
    assert [one["event"] for one in events(tmp_path / "x" / "journal.jsonl")].count("rolled back") == 2


def test_collapse_stops_the_run(corpus, micro, tmp_path):
    strict = replace(micro, {"recovery.min_prediction_std": 1e6, "recovery.collapse_check_after": 4})
    with pytest.raises(DataError, match="step 4: collapse: deviation/prediction/cqt is .*, below 1e.06"):
        pretrain(strict, corpus, tmp_path / "x", device="cpu")
