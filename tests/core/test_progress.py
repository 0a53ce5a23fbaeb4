"""Progress: lines in logs, bars on request, and how much a command says."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from carrara.core.progress import ProgressLines, progress

ROOT = Path(__file__).parents[2]


def lines_of(capsys, seconds, steps, of_audio=False):
    """Return the lines of work of that many equal steps, one unit each."""
    now = [0.0]
    work = ProgressLines("work", steps, of_audio, clock=lambda: now[0])
    for step in range(steps):
        now[0] = seconds * (step + 1) / steps
        work.advance(1, f"file {step + 1}")
    work.finish()
    return capsys.readouterr().err.splitlines()


def test_short_work_says_nothing(capsys):
    assert lines_of(capsys, 59, 100) == []


def test_long_work_says_a_line_each_tenth_and_the_end(capsys):
    lines = lines_of(capsys, 3000, 300)
    assert lines[0] == "work: 6 of 300 (2 %), after 60 s, 49 min left, file 6"
    assert 10 <= len(lines) <= 12
    assert lines[-1] == "work: 300 of 300 (100 %), after 50 min, file 300"
    # The estimates of steady work agree: what is over and what is left make the same whole.
    percents = [int(line.partition("(")[2].partition(" ")[0]) for line in lines]
    assert percents == sorted(percents)


def test_a_unit_that_takes_long_says_a_line_too(capsys, monkeypatch):
    monkeypatch.setenv("CARRARA_PROGRESS", "")
    monkeypatch.setattr("carrara.core.progress.FIRST_LINE", 0.01)
    said, deadline = "", time.monotonic() + 300
    with progress("work", 2) as advance:
        while not said and time.monotonic() < deadline:
            time.sleep(0.01)
            said = capsys.readouterr().err
        advance(2)
    assert said.startswith("work: 0 of 2 (0 %), after ") and "left" not in said


def test_the_end_is_said_once(capsys):
    assert lines_of(capsys, 60, 1) == ["work: 1 of 1 (100 %), after 60 s, file 1"]


def test_work_without_units_has_no_bar(capsys, monkeypatch):
    monkeypatch.setenv("CARRARA_PROGRESS", "1")
    with progress("work", 0) as advance:
        advance(0)
    assert capsys.readouterr().err == ""


def test_very_long_work_says_a_line_every_ten_minutes(capsys):
    assert len(lines_of(capsys, 36_000, 3600)) >= 36_000 / 3600


def test_audio_is_shown_in_hours_and_as_a_multiple_of_real_time(capsys):
    assert lines_of(capsys, 120, 7200, of_audio=True)[-1].startswith("work: 2.00 of 2.00 h (100 %), 60 × real time")


@pytest.mark.parametrize(("setting", "shown"), [("0", False), ("1", True)])
def test_a_bar_ends_at_100_percent(capsys, monkeypatch, setting, shown):
    monkeypatch.setenv("CARRARA_PROGRESS", setting)
    monkeypatch.setenv("COLUMNS", "120")
    with progress("embedding", 3600.0, of_audio=True) as advance:
        advance(3500.0, "7 of 7 files")  # a header promised more than there was
    text = capsys.readouterr().err
    assert ("100 %" in text and "7 of 7 files" in text and "of 1.00 h" in text) is shown


def carrara(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "carrara", *arguments], capture_output=True, text=True, cwd=folder,
        env={"PYTHONPATH": str(ROOT), "HOME": str(folder), "PATH": ""},
    )  # fmt: skip


def test_quiet_says_only_results_and_the_error_and_a_log_file_gets_all(tmp_path):
    loud, quiet = carrara(tmp_path, "ls"), carrara(tmp_path, "--quiet", "ls")
    assert loud.stdout == quiet.stdout and loud.stderr and not quiet.stderr
    assert carrara(tmp_path, "-q", "ls", "encodes").stderr.count("\n") == 1
    logged = carrara(tmp_path, "--log-file", "run.log", "ls")
    assert logged.stderr == loud.stderr == (tmp_path / "run.log").read_text()
    behind = carrara(tmp_path, "ls", "-q", "protocols", "--log-file", "behind.log")
    before = carrara(tmp_path, "--quiet", "--log-file", "before.log", "ls", "protocols")
    assert behind.returncode == 0 and (behind.stdout, behind.stderr) == (before.stdout, before.stderr)
    assert (tmp_path / "behind.log").read_text() == (tmp_path / "before.log").read_text()
    refused = carrara(tmp_path, "--log-file", "no/such/run.log", "ls")
    assert refused.returncode == 2 and "--log-file no/such/run.log" in refused.stderr


def test_help_names_the_environment_and_completion(tmp_path):
    text = carrara(tmp_path, "--help").stdout
    for name in ("CARRARA_DATA", "CARRARA_HOME", "CARRARA_PROGRESS", "NO_COLOR", "--install-completion"):
        assert name in text


def test_the_first_units_give_no_estimate(capsys):
    now = [0.0]
    work = ProgressLines("work", 120, clock=lambda: now[0])
    for now[0] in (100.0, 101.0, 200.0):  # the first one pays for imports
        work.advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "work: 1 of 120 (1 %), after 2 min" and "left" not in lines[0]
