"""Folders of one's own in other layouts than labels.csv, and the task files that `carrara new task` writes of them."""

import tomllib
from pathlib import Path

import mir_eval.io
import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

import carrara as front_door
from carrara.bench.select_tasks import select_tasks
from carrara.bench.task_file import read_task
from carrara.bench.task_types import REGISTRY as TASK_TYPES
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


def annotate(folder, **texts):
    for name, text in texts.items():
        stem, _, kind = name.partition("_")
        (folder / f"{stem}.{kind}").write_text(text)
    return fill(folder, sorted({f"{name.partition('_')[0]}.wav" for name in texts}))


def test_files_of_beats_beside_the_audio_are_labels(tmp_path):
    annotate(tmp_path, a_beats="# seconds, beat\n0.5 1\n1.0\t2\n1.5,3\n", c_txt="0.25\n0.75\n")
    downbeats = {"beats": [0.5, 1.0, 1.5], "downbeats": [0.5]}
    assert labels_of(tmp_path) == {"a.wav": downbeats, "c.wav": {"beats": [0.25, 0.75]}}
    annotate(tmp_path, b_beats="0.5\nhello\n")
    with pytest.raises(CarraraError, match=r"b\.beats, line 2: does not begin with a time"):
        labels_of(tmp_path)


def test_files_of_segments_agree_with_mir_evals_readers(tmp_path):
    texts = {
        "a_lab": "0.000 1.500 N\n1.500 3.25 A:min7\n3.25 4.0 C:maj(9,11)/3\n",
        "b_lab": "0.0\t2.0\tG\n2.0\t5.0\tD/5\n",
    }
    annotate(tmp_path, **texts)
    for clip, labels in labels_of(tmp_path).items():
        assert list(labels) == ["chords"]
        intervals, names = mir_eval.io.load_labeled_intervals(str(tmp_path / clip.replace(".wav", ".lab")))
        assert labels["chords"] == [[*interval, name] for interval, name in zip(intervals.tolist(), names)]
    (tmp_path / "a.lab").write_text("0 8.5 verse one\n8.5 20 chorus\n")
    (tmp_path / "b.lab").write_text("0 intro\n4 verse two\n9.5 end\n")
    expected = [[0, 8.5, "verse one"], [8.5, 20, "chorus"]], [[0, 4, "intro"], [4, 9.5, "verse two"]]
    assert labels_of(tmp_path) == {f"{name}.wav": {"structure": each} for name, each in zip("ab", expected)}


def test_a_suffix_names_the_kind_where_the_content_could_be_another(tmp_path):
    annotate(tmp_path, a_structure="0 4 A\n4 8 B\n", b_melody="0.0 220\n0.5 0\n1.0 440\n", c_melody="0.5 1 261.6\n")
    assert labels_of(tmp_path) == {
        "a.wav": {"structure": [[0, 4, "A"], [4, 8, "B"]]},
        "b.wav": {"melody": [[0, 0.5, 220], [1.0, 1.5, 440]]},
        "c.wav": {"melody": [[0.5, 1, 261.6]]},
    }


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a_chords", "0 1 C\n1\n", r"a\.chords, line 2: '1' is not `start end label`"),
        ("a_lab", "0 1 C\n3 2 D\n", r"a\.lab, line 2: '3 2 D' is not `start end label`"),
        ("a_melody", "0 1 high\n", r"a\.melody, line 1: 'high' is not a frequency"),
        ("a_lab", "verse\n", r"a\.lab, line 1: does not begin with a time"),
        ("a_beats", "nan\n", r"a\.beats, line 1: does not begin with a time"),
        ("a_beats", "-1\n", r"a\.beats, line 1: does not begin with a time"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, name, text, says):
    with pytest.raises(CarraraError, match=says):
        labels_of(annotate(tmp_path, **{name: text}))


def test_lyrics_are_no_annotations_and_columns_come_first(tmp_path):
    annotate(tmp_path, a_txt="La la la\n0.5\n", b_beats="1.0\n2.0\n3.0\n")
    (tmp_path / "labels.csv").write_text("path,start,duration,beats[]\na.wav,,,\nb.wav,1.5,1,\nb.wav,,,7\n")
    labels = labels_of(tmp_path)
    assert labels["a.wav"] == {"beats": []} and labels["b.wav"] == {"beats": ["7"]}
    (tmp_path / "labels.csv").write_text("path,start,duration\na.wav,,\nb.wav,1.5,1\n")
    assert labels_of(tmp_path) == {"a.wav": {}, "b.wav@1.5+1": {"beats": [0.5]}}


FRAME_TASKS = {
    "beats": ("0.5 1\n1.0 2\n", "beat_tracking", ("beat",)),
    "chords": ("0 1 C:maj7\n1 2 N\n", "chord_recognition", ("N", "C:maj", "Db:maj")),
    "structure": ("0 1 verse\n1 2 chorus\n", "structure", ("chorus", "verse")),
    "melody": ("0 1 220\n1 2 262\n", "melody", ("rest", "57", "58", "59", "60")),
}


@pytest.mark.parametrize("kind", FRAME_TASKS)
def test_a_folder_of_annotated_audio_is_a_task(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    text, task_type, labels = FRAME_TASKS[kind]
    for split in ("train", "valid", "test"):
        (tmp_path / "songs" / split).mkdir(parents=True)
        annotate(tmp_path / "songs" / split, **{f"{name}_{kind}": text for name in "ab"})
    carrara("new", "task", "songs", "--label", kind)
    assert tomllib.loads(Path("songs.toml").read_text())["task_type"] == task_type
    task, dataset = read_task(Path("songs.toml"))
    assert (task.task_type, task.labels[: len(labels)], task.split_scheme) == (task_type, labels, "given")
    clips = dataset.clips(tmp_path / "songs", "given")
    assert len(TASK_TYPES.get(task_type.replace("_", "-")).truths(task, clips)) == 6
    assert read_task(tmp_path / "songs")[0].task_type == task_type


@pytest.mark.slow
def test_chords_from_files_beside_the_audio_are_measured(tmp_path, monkeypatch):
    """Mean power of the pitches that differ between three triads is enough to tell them, frame by frame."""
    monkeypatch.chdir(tmp_path)
    chords = {"C:maj": (261.6, 329.6, 392.0), "A:min": (220.0, 261.6, 329.6), "G:maj": (196.0, 246.9, 293.7)}
    time = np.arange(16_000) / 16_000
    for number in range(24):
        names = np.random.default_rng(number).choice(list(chords), 4)
        sound = [sum(0.2 * np.sin(2 * np.pi * hertz * time) for hertz in chords[name]) for name in names]
        split = ("train", "train", "valid", "test")[number % 4]
        (tmp_path / "songs" / split).mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "songs" / split / f"{number}.wav", np.concatenate(sound), 16_000)
        lines = [f"{start} {start + 1} {name}" for start, name in enumerate(names)]
        (tmp_path / "songs" / split / f"{number}.lab").write_text("\n".join(lines))

    def powers(samples_BN, lengths):
        frame_BFT = samples_BN.unfold(1, 1600, 1600)
        hertz = sorted({hertz for triad in chords.values() for hertz in triad})
        wave_TP = torch.exp(2j * torch.pi * torch.arange(1600)[:, None] / 16_000 * torch.tensor(hertz))
        return (frame_BFT.to(wave_TP.dtype) @ wave_TP).abs()[:, None]

    carrara("new", "task", "songs")
    Path("songs.toml").write_text(Path("songs.toml").read_text() + "max_epochs = 20\n")
    (record,) = front_door.bench(powers, "songs.toml", sample_rate=16_000, results="results")
    assert record.scores["chord_majmin"].value > 0.9


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
