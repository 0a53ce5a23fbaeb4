"""A task file: a few lines of TOML about a folder, measured from the command line."""

import json

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from carrara.bench.task_file import read_task
from carrara.cli._main import app
from carrara.core.errors import DataError, UsageError

RATE = 16_000
SHORT = 'data = "music"\ntask_type = "multiclass"\nlabel = "pitch"\nmax_epochs = 30\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("own")
    (root / "music").mkdir()
    lines = ["path,split,pitch,height,tags[]"]
    for number in range(36):
        pitch = ("low", "high")[number % 2]
        time = np.arange(RATE // 2) / RATE
        sound = 0.3 * np.sin(2 * np.pi * (220 + 440 * (number % 2) + number) * time)
        soundfile.write(root / "music" / f"{number}.wav", sound, RATE)
        split = ("train", "train", "valid", "test")[number // 2 % 4]
        lines.append(f"{number}.wav,{split},{pitch},{number % 2},{pitch};tone")
    (root / "music" / "labels.csv").write_text("\n".join(lines))
    return root


def write(folder, text, name="pitch.toml"):
    (folder / name).write_text(text)
    return folder / name


def test_fields_that_are_left_out_have_usual_values(folder):
    task, dataset = read_task(write(folder, SHORT))
    assert (task.name, task.dataset, task.split_scheme, task.labels) == ("pitch", "music", "given", ("high", "low"))
    assert task.metrics == ("accuracy",) and task.monitor == "accuracy" and task.max_epochs == 30
    assert dataset.root() == folder / "music"
    tags, _ = read_task(write(folder, 'data = "music"\ntask_type = "multilabel"\nlabel = "tags"', "tags.toml"))
    assert tags.labels == ("high", "low", "tone") and tags.metrics == ("roc_auc", "average_precision")
    dashes = write(folder, 'data = "music"\ntask_type = "beat-tracking"\nlabel = "tags"', "beats.toml")
    assert read_task(dashes)[0].labels == ("beat",)
    covers, _ = read_task(write(folder, 'data = "music"\ntask_type = "retrieval"\nlabel = "pitch"', "covers.toml"))
    assert covers.labels == ("similarity",) and covers.metrics == ("map",) and covers.monitor == "map"
    height, _ = read_task(write(folder, 'data = "music"\ntask_type = "regression"\nlabel = "height"', "height.toml"))
    assert height.labels == ("height",) and height.metrics == ("r2_height",) and height.monitor == "r2"


def test_a_python_file_is_a_task_as_in_the_registry(folder):
    text = "from carrara.bench.tasks.pebble.key import TASK as KEY\nTASK = KEY.model_copy(update={'max_epochs': 7})\n"
    task, dataset = read_task(write(folder, text, "mine.py"))
    assert task.name == "mine" and task.max_epochs == 7 and dataset is None
    with pytest.raises(UsageError, match="no TASK"):
        read_task(write(folder, "x = 1\n", "none.py"))


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        (SHORT + "max_epoch = 3\n", UsageError, "unknown key 'max_epoch'.*'max_epochs'"),
        ('data = "music"\nlabel = "pitch"\n', UsageError, "task_type"),
        ('data = "musik"\ntask_type = "multiclass"\nlabel = "pitch"\n', DataError, "there is no folder"),
        (
            'data = "music"\ntask_type = "multiclass"\nlabel = "pich"\n',
            UsageError,
            "label is 'pich'; .* Did you mean 'pitch'",
        ),
        ("data = music", UsageError, "not TOML"),
    ],
)
def test_a_mistake_in_the_file_is_named(folder, text, kind, says):
    with pytest.raises(kind, match=says):
        read_task(write(folder, text, "wrong.toml"))
    with pytest.raises(UsageError, match="no such task file"):
        read_task(folder / "nowhere.toml")


@pytest.mark.slow
def test_a_task_file_is_measured_from_the_command_line(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    path = write(folder, SHORT)
    done = CliRunner().invoke(
        app, ["bench", "chroma-mfcc", "--task", str(path), "-o", str(tmp_path / "out"), "--device", "cpu", "--json"]
    )
    assert done.exit_code == 0, done.output
    (record,) = json.loads(done.stdout)
    assert record["task"]["name"] == "pitch" and record["data"]["name"] == "music" and not record["partial"]
    assert record["scores"]["accuracy"]["value"] > 0.9, "two tones an octave and a half apart are easy"
