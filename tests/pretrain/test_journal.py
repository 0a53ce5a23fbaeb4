"""The journal: averages as a naive sum gives them, lines that survive a kill, ranks of known matrices."""

import json

import pytest
import torch

from carrara.pretrain.journal import Journal, Tally, effective_rank, read
from carrara.pretrain.objective import Losses


def test_a_line_averages_over_masked_frames():
    tally = Tally(steps=3, skipped=1)
    for frames, loss, right, error, baseline, norm in ((10, 30.0, 4, 5.0, 20.0, 1.0), (30, 60.0, 20, 5.0, 20.0, 4.0)):
        parts = {
            "loss/a": torch.tensor(loss),
            "correct/a": torch.tensor(right),
            "error/cqt": torch.tensor(error),
            "baseline/cqt": torch.tensor(baseline),
        }
        tally.add(
            Losses(torch.tensor(loss + error), frames, frames, parts, {"a": torch.tensor([frames, 0, 1])}), norm, 2.0
        )
    line = tally.line()
    assert line["loss"] == pytest.approx(100 / 40)
    assert line["loss/a"] == pytest.approx(90 / 40)
    assert line["accuracy/a"] == pytest.approx(24 / 40)
    assert line["error/cqt"] == pytest.approx(10 / 40)
    assert line["relative/cqt"] == pytest.approx(0.25)
    assert line["codes/a"] == 2
    assert (line["gradient_norm"], line["clipped"], line["skipped"]) == (2.5, 0.5, 1)


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


def test_the_effective_rank_counts_equal_directions():
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(64, 5, generator=generator)).Q
    rows = torch.linalg.qr(torch.randn(400, 6, generator=generator)).Q
    # Orthonormal columns that are orthogonal to the constant one too, so that centring changes nothing.
    columns = torch.linalg.qr(torch.cat([torch.ones(400, 1), rows], dim=1)).Q[:, 1:6]
    assert effective_rank((columns @ basis.T)[None]) == pytest.approx(5, abs=1e-3)
    assert effective_rank(torch.ones(1, 50, 8)) == pytest.approx(1, abs=1e-3)
