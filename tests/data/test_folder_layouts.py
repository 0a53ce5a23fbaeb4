"""Folders of one's own in other layouts than labels.csv, and the task files that `carrara new task` writes of them."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from carrara.bench.select_tasks import select_tasks
from carrara.bench.task_file import read_task
from carrara.cli._main import app
from carrara.core.errors import CarraraError, UsageError
from carrara.data.folder import FolderDataset


def fill(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, np.zeros(800), 8000)
    return folder


def labels_of(folder):
    return {clip.id: clip.labels for clip in FolderDataset(folder).index(folder)}


def carrara(*arguments, code=0):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return done


def test_a_folder_for_each_class_gives_the_label(tmp_path):
    fill(tmp_path, [f"{name}/{index}.wav" for name in ("drum", "flute") for index in range(15)])
    dataset = FolderDataset(tmp_path)
    assert labels_of(tmp_path)["drum/3.wav"] == {"label": "drum"}
    assert list(dataset.splits(tmp_path)) == ["hashed"]
    (task,), datasets = select_tasks(None, tmp_path)
    assert (task.task_type, task.labels, task.name) == ("multiclass", ("drum", "flute"), tmp_path.name)
    assert list(datasets) == [tmp_path.name]


def test_folders_of_splits_give_the_splits(tmp_path):
    fill(tmp_path, [f"{split}/{name}/a.wav" for split in ("train", "validation", "test") for name in ("x", "y")])
    splits = FolderDataset(tmp_path).splits(tmp_path)["given"]
    assert splits["train/x/a.wav"] == "train" and splits["validation/y/a.wav"] == "valid"
    assert labels_of(tmp_path)["test/y/a.wav"] == {"label": "y"}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_audiofolder_of_hugging_face_is_read(tmp_path, delimiter):
    fill(tmp_path, ["data/a.wav", "data/b.wav"])
    rows = [("file_name", "genre"), ("data/a.wav", "rock"), ("data/b.wav", "jazz")]
    (tmp_path / "metadata.csv").write_text("\n".join(map(delimiter.join, rows)))
    assert labels_of(tmp_path) == {"data/a.wav": {"genre": "rock"}, "data/b.wav": {"genre": "jazz"}}
    (tmp_path / "metadata.csv").unlink()
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "data/a.wav", "tags": ["a", "b"]}\n')
    assert labels_of(tmp_path) == {"data/a.wav": {"tags": ["a", "b"]}}


def test_files_of_beats_beside_the_audio_are_labels(tmp_path):
    fill(tmp_path, ["a.wav", "b.wav"])
    (tmp_path / "a.beats").write_text("# seconds, beat\n0.5 1\n1.0\t2\n1.5,3\n")
    assert labels_of(tmp_path) == {"a.wav": {"beats": [0.5, 1.0, 1.5]}}
    (tmp_path / "b.beats").write_text("0.5\nhello\n")
    with pytest.raises(CarraraError, match=r"b\.beats, line 2: does not begin with a time"):
        labels_of(tmp_path)


def test_a_folder_without_labels_says_what_would_be_read(tmp_path):
    fill(tmp_path, ["a.wav"])
    with pytest.raises(CarraraError, match="carrara show folder"):
        FolderDataset(tmp_path).index(tmp_path)


@pytest.fixture
def labelled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = fill(tmp_path / "my music", [f"{index}.wav" for index in range(40)])
    lines = ["path,group,mood,energy,tags[]"]
    for index in range(40):
        tags = "loud;fast" if index % 3 else "slow"
        lines.append(f"{index}.wav,artist {index // 2},{'calm' if index % 2 else 'wild'},{index / 7:.2f},{tags}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder


TYPES = [("mood", "multiclass", ("calm", "wild")), ("energy", "regression", ("energy",))]
TYPES += [("tags", "multilabel", ("fast", "loud", "slow"))]


@pytest.mark.parametrize(("label", "task_type", "classes"), TYPES)
def test_a_new_task_file_is_a_task_of_the_folder(labelled, label, task_type, classes):
    carrara("new", "task", labelled, "--label", label, "-o", "tasks.toml")
    text = Path("tasks.toml").read_text()
    values = tomllib.loads(text)
    assert values == {"data": "my music", "task_type": task_type, "label": label}
    assert "# 40 clips: " in text and "20" in text and "by a hash of each clip's group" in text
    task, dataset = read_task(Path("tasks.toml"))
    assert (task.task_type, task.labels) == (task_type, classes)
    assert dataset.root().resolve() == labelled.resolve()


def test_a_new_task_says_what_else_there_is_and_overwrites_nothing(labelled):
    carrara("new", "task", labelled)
    text = Path("my music.toml").read_text()
    assert "Other columns that could be it: energy (regression), tags (multilabel)." in text
    assert "calm 20, wild 20" in text or "wild 20, calm 20" in text
    assert carrara("new", "task", labelled, "-o", "-").stdout == text
    assert "exists already" in carrara("new", "task", labelled, code=2).stderr
    assert "Did you mean 'mood'?" in carrara("new", "task", labelled, "--label", "mod", "-o", "b.toml", code=2).stderr
    assert "no such folder" in carrara("new", "task", "nothing", code=1).stderr
    with pytest.raises(UsageError, match="carrara new task"):
        select_tasks(None, labelled)
