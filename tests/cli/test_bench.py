"""`carrara bench` from the command line: tasks that cannot be measured are reported, and the others are measured."""

import json

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from carrara.bench.config import parse_protocol_name
from carrara.cli._main import app
from carrara.encoders._hub import availability
from carrara.encoders._hub.availability import Availability

RATE = 8000


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    root = tmp_path_factory.mktemp("own")
    (root / "music").mkdir()
    lines = ["path,split,loud"]
    for number in range(24):
        loud = number % 2
        sound = (0.02 + 0.3 * loud) * np.random.default_rng(number).standard_normal(RATE // 4)
        soundfile.write(root / "music" / f"{number}.wav", sound.clip(-1, 1), RATE)
        lines.append(f"{number}.wav,{('train', 'valid', 'test')[number // 2 % 3]},{('no', 'yes')[loud]}")
    (root / "music" / "labels.csv").write_text("\n".join(lines))
    path = root / "loud.toml"
    path.write_text('data = "music"\ntask_type = "multiclass"\nlabel = "loud"\nmax_epochs = 2\n')
    return path


@pytest.fixture
def run(task, tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CARRARA_DATA", str(tmp_path / "data"))

    def invoke(*arguments, encoders=("noise",)):
        arguments = ["bench", *encoders, "--device", "cpu", "-o", tmp_path / "out", *arguments]
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return invoke


def test_a_task_without_its_dataset_is_reported_and_the_others_are_measured(run, task):
    done = run("-t", f"nsynth/pitch,{task}")
    assert done.exit_code == 0, done.output
    assert "no record of nsynth/pitch: nsynth is not at" in done.stderr and "carrara download nsynth" in done.stderr
    assert done.stdout.startswith("noise\tloud\taccuracy ") and "-t nsynth/pitch measures them alone" in done.stderr


def set_ready(monkeypatch, *names):
    """Let these encoders alone be ready on this machine."""
    monkeypatch.setattr(
        availability, "check_availability", lambda name: Availability("ready" if name in names else "import")
    )


def test_without_names_every_encoder_that_is_ready_is_measured(run, task, monkeypatch):
    set_ready(monkeypatch, "mfcc", "noise")
    done = run("-t", task, encoders=())
    assert done.exit_code == 0, done.output
    assert done.stderr.startswith("2 encoders are ready: mfcc, noise\n")
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["mfcc", "noise"]


def test_an_encoder_that_does_not_load_is_reported_and_the_others_are_measured(run, task, monkeypatch):
    set_ready(monkeypatch, "clmr", "noise")
    done = run("-t", task, encoders=())
    assert done.exit_code == 1
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["noise"]
    ready, first, *_, last = done.stderr.splitlines()
    assert ready == "2 encoders are ready: clmr, noise" and first.startswith("no record of clmr: clmr: its weights (")
    assert last.startswith("1 record in ") and last.endswith("; clmr did not load")


def test_a_single_encoder_that_does_not_load_is_an_error(run, task, tmp_path):
    done = run("-t", task, encoders=(tmp_path,))
    assert done.exit_code == 2 and done.stdout == ""
    assert done.stderr.startswith("carrara bench: ") and "holds no config.json" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_task_file_among_the_encoders_is_misuse(run):
    result = run("noise", "own/mood.toml")
    assert result.exit_code == 2 and "own/mood.toml: a task file, not an encoder; give it as -t" in result.stderr


def test_neither_encoders_nor_tasks_is_misuse(run):
    done = run(encoders=())
    assert done.exit_code == 2 and "give encoders, or only --suite or --tasks" in done.stderr


def test_no_record_is_a_failure(run):
    done = run("-t", "nsynth/pitch")
    assert done.exit_code == 1 and "0 records" in done.stderr


def test_a_task_that_fails_is_reported_with_exit_code_1(run, task, tmp_path):
    broken = tmp_path / "broken.toml"
    broken.write_text(task.read_text().replace('"music"', f'"{task.parent / "music"}"') + 'labels = ["yes", "maybe"]\n')
    done = run("-t", f"{broken},{task}")
    assert done.exit_code == 1 and "no record of broken: clip" in done.stderr and "noise\tloud" in done.stdout


def test_records_hold_seeds_and_robustness(run, task):
    done = run("-t", str(task), "--seeds", "2", "--seed", "7", "--corrupt", "gain:-6db,clip", "--json")
    assert done.exit_code == 0, done.output
    (record,) = json.loads(done.stdout)
    assert record["run"]["seeds"] == [7, 8] and len(record["scores"]["accuracy"]["by_seed"]) == 2
    assert set(record["robustness"]) == {"gain:-6db", "clip"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--corrupt", "noize:3"], "there is no corruption 'noize:3'. Did you mean 'noise'"),
        (["--set", "head=lstm"], "there is no setting 'head'"),
        (["--protocol", "constraint"], "there is no protocol 'constraint'. Did you mean 'constrained'"),
        (["--suite", "marble-41"], "there is no suite 'marble-41'. Did you mean 'marble-14'"),
    ],
)
def test_an_unknown_name_is_refused_with_a_similar_one(run, task, arguments, message):
    done = run("-t", str(task), *arguments)
    assert done.exit_code == 2 and message in done.stderr


def test_a_protocol_is_given_as_records_name_it(run, task, tmp_path):
    done = run("-t", str(task), "--protocol", "semi-constrained:head=svm,C=[1]", "--set", "layer=0", "--json")
    assert done.exit_code == 0, done.output
    name = json.loads(done.stdout)[0]["protocol"]["name"]
    assert parse_protocol_name(name).settings == {"head": "svm", "C": [1], "layer": 0}
    again = run("-t", str(task), "--protocol", name)
    assert again.exit_code == 0 and len(list((tmp_path / "out").rglob("*.json"))) == 1
    refused = run("-t", str(task), "--protocol", "semi-constrained:head")
    assert refused.exit_code == 2 and "write it as path=value" in refused.stderr
