"""The journal: averages as a naive sum gives them, lines that survive a kill or a roll-back."""

import json

import pytest
import torch

from carrara.core.errors import StoreError
from carrara.pretrain.metrics_log import ROLLED_BACK, SKIPPED, Journal, Tally, events, read, together
from carrara.pretrain.objective import Losses


def test_a_line_averages_over_masked_frames():
    tally = Tally(steps=3, skipped=1)
    for frames, loss, right, error, baseline, norm in ((10, 30.0, 4, 5.0, 20.0, 1.0), (30, 60.0, 20, 5.0, 20.0, 4.0)):
        parts = {
            "asked/a": torch.tensor(frames),
            "loss/a": torch.tensor(loss),
            "correct/a": torch.tensor(right),
            "error/cqt": torch.tensor(error),
            "baseline/cqt": torch.tensor(baseline),
        }
        counts = {"a": torch.tensor([frames, 0, frames])}
        tally.add(Losses(torch.tensor(loss + error), torch.tensor(2.0), frames, frames, 4, parts, counts, counts))
        tally.took(norm, 2.0)
    line = tally.line()
    assert line["loss"] == pytest.approx(100 / 40 + 4 / 8)
    assert line["penalty"] == pytest.approx(4 / 8)
    assert line["loss/a"] == pytest.approx(90 / 40)
    assert line["accuracy/a"] == pytest.approx(24 / 40)
    assert line["error/cqt"] == pytest.approx(10 / 40)
    assert line["relative/cqt"] == pytest.approx(0.25)
    assert line["codes/a"] == 2
    assert line["perplexity/a"] == line["perplexity_target/a"] == pytest.approx(2)
    assert (line["gradient_norm"], line["clipped"], line["skipped"]) == (2.5, 0.5, 1)


def test_deviations_are_those_of_all_values_together():
    values = torch.randn(30, 5, generator=torch.Generator().manual_seed(0)).double() * torch.arange(1, 6) + 3
    tallies = []
    for part in values.split(11):
        tally = Tally(steps=1)
        spread = torch.stack([torch.full((5,), len(part)).double(), part.sum(0), part.square().sum(0)])
        none = torch.tensor(0.0)
        tally.add(Losses(none, none, len(part), len(part), 1, spread={"target/x": spread}))
        tallies.append(tally)
    expected = values.std(dim=0, correction=0).mean().item()
    assert together(tallies).line()["deviation/target/x"] == pytest.approx(expected)


def test_going_back_takes_the_undone_lines_out_and_keeps_the_events(tmp_path):
    journal = Journal(tmp_path, 0)
    for step in (2, 4, 6):
        journal.write({"step": step})
    journal.write({"step": 7, "event": SKIPPED})
    journal.write({"step": 4, "event": ROLLED_BACK})
    journal.go_back(4)
    journal.write({"step": 6, "loss": 1.0})
    journal.write({"step": 9, "event": SKIPPED})
    again = Journal(tmp_path, 6)
    again.close()
    assert [line["step"] for line in read(again.path)] == [2, 4, 6]
    assert [line["step"] for line in events(again.path)] == [7, 4]


def test_reopening_forgets_later_steps_and_a_torn_line(tmp_path):
    journal = Journal(tmp_path, 0)
    for step in (2, 4, 6):
        journal.write({"step": step})
    journal.close()
    with open(journal.path, "a") as file:
        file.write('{"step": 8, "lo')
    assert [line["step"] for line in read(journal.path)] == [2, 4, 6]
    again = Journal(tmp_path, 4)
    again.write({"step": 6, "loss": 1.5})
    again.close()
    assert [json.loads(line) for line in journal.path.read_text().splitlines()] == [
        {"step": 2},
        {"step": 4},
        {"step": 6, "loss": 1.5},
    ]


def test_a_disk_that_fills_is_one_line_with_the_cure(tmp_path, monkeypatch):
    journal = Journal(tmp_path, 0)
    journal.write({"step": 1})
    journal.path.unlink()
    journal.path.symlink_to("/dev/full")
    with pytest.raises(StoreError, match=r"journal.jsonl: cannot write here \(No space left on device\); make room"):
        journal.write({"step": 2})
    journal.close()
