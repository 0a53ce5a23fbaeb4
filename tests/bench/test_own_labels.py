"""Labels of one's own folder: read, or refused in one line before anything is extracted."""

import json
import warnings

import numpy as np
import pytest
import soundfile
from mir_eval.key import weighted_score
from typer.testing import CliRunner

from carrara.bench import task_types
from carrara.bench.run import bench
from carrara.bench.task_file import read_task
from carrara.cli._main import app
from carrara.core.errors import CarraraError, DataError, UsageError
from carrara.metrics.key import key_weighted, parse_key

RATE = 8000
SPLITS = ["train"] * 8 + ["valid"] * 4 + ["test"] * 4


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    root = tmp_path_factory.mktemp("sounds")
    for number in range(16):
        samples = (0.02 + 0.3 * (number % 2)) * np.random.default_rng(number).standard_normal(RATE // 4)
        soundfile.write(root / f"{number}.wav", samples.clip(-1, 1), RATE)
    return root


@pytest.fixture
def measure(sounds, tmp_path, monkeypatch):
    """Return the record of a task over the sounds with these labels."""
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))

    def run(label, value, task_type="multiclass", more="", is_csv=False):
        rows = [
            {"path": str(sounds / f"{n}.wav"), "split": SPLITS[n], **({} if value(n) is None else {label: value(n)})}
            for n in range(16)
        ]
        folder = tmp_path / "folder"
        folder.mkdir(exist_ok=True)
        if is_csv:
            lines = [f"path;split;{label}", *(";".join(map(str, row.values())) for row in rows)]
            (folder / "labels.csv").write_text("\n".join(lines))
        else:
            (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
        (tmp_path / "own.toml").write_text(
            f'data = "folder"\ntask_type = "{task_type}"\nlabel = "{label.removesuffix("[]")}"\nmax_epochs = 2\n{more}'
        )
        task, dataset = read_task(tmp_path / "own.toml")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return bench("noise", [task], results=tmp_path / "results", datasets={task.dataset: dataset})[0]

    return run


@pytest.fixture
def refuse(measure, tmp_path):
    """Return the message of a task that is refused, after checking that nothing was extracted."""

    def run(*arguments, **options):
        with pytest.raises(CarraraError) as caught:
            measure(*arguments, **options)
        assert "\n" not in str(caught.value)
        assert not list(tmp_path.glob("home/**/*.f16")) and not (tmp_path / "results").exists()
        return str(caught.value)

    return run


def test_the_fixture_would_see_features(measure, tmp_path):
    measure("loud", lambda n: ["no", "yes"][n % 2])
    assert list(tmp_path.glob("home/**/*.f16"))


def test_a_bare_word_among_lists_is_one_tag(sounds, tmp_path):
    value = {0: ["rock", "pop"], 1: "pop", 2: "rock"}
    rows = [{"path": str(sounds / f"{n}.wav"), "split": SPLITS[n], "tags": value[n % 3]} for n in range(16)]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "own.toml").write_text('data = "."\ntask_type = "multilabel"\nlabel = "tags"\n')
    task, dataset = read_task(tmp_path / "own.toml")
    assert task.labels == ("pop", "rock")
    truths = task_types.REGISTRY.get("multilabel").truths(task, dataset.clips(tmp_path, "given"))
    assert [tuple(truth) for truth in truths] == [(1, 1), (1, 0), (0, 1)] * 5 + [(1, 1)]


@pytest.mark.parametrize(
    ("label", "value", "task_type", "words"),
    [
        ("tags", lambda n: "rock|pop", "multilabel", ["'rock|pop'", "tags[]", "list"]),
        ("tags", lambda n: "rock", "multilabel", ["0.wav", "'rock'", "tags[]"]),
        ("tags", lambda n: ["a", "b"] if n else "a, b", "multilabel", ["0.wav", "'a, b'", "tags[]"]),
        ("tags", lambda n: [["a"]] if n == 15 else ["a", "b"][n % 2 :], "multilabel", ["15.wav", "tags[]"]),
        ("mood", lambda n: None if n == 15 else "ab"[n % 2], "multiclass", ["15.wav", "no label 'mood'"]),
        ("mood", lambda n: ["a"] if n == 15 else "ab"[n % 2], "multiclass", ["15.wav", "list", "multilabel"]),
        ("mood", lambda n: "c" if n == 15 else "ab"[n % 2], "multiclass", ["15.wav", "'c'", "train split"]),
        ("level", lambda n: "0,25" if n == 14 else n / 10, "regression", ["14.wav", "'0,25'", "point: 0.25"]),
        ("level", lambda n: "nan" if n == 14 else n / 10, "regression", ["14.wav", "'nan'", "finite"]),
        ("level", lambda n: {"a": 1} if n == 14 else n / 10, "regression", ["14.wav", "{'a': 1}", "finite"]),
        ("level", lambda n: True if n == 14 else n / 10, "regression", ["14.wav", "'True'", "finite"]),
        *(
            ("level", lambda n, text=text: text if n == 14 else n / 10, "regression", ["14.wav", text, "finite"])
            for text in ("1_000", "0x10", "12%", "1,000.5", "1e400", "-inf", "--", "½", "1 000")
        ),
        ("mood", lambda n: "a\0" if n == 3 else "ab"[n % 2], "multiclass", ["line 4", "mood holds a NUL character"]),
        ("tags", lambda n: ["a", "b\0"] if n == 3 else ["a", "b"][n % 2 :], "multilabel", ["line 4", "NUL"]),
        ("level", lambda n: [1] if n == 14 else n / 10, "regression", ["14.wav", "level", "number"]),
        ("beats", lambda n: [0.1, "0,5"] if n == 13 else [0.1], "beat_tracking", ["13.wav", "0,5", "times in seconds"]),
        ("beats", lambda n: [-1.0] if n == 13 else [0.1], "beat_tracking", ["13.wav", "from 0 on"]),
        ("beats", lambda n: [10**299] * 2 if n == 13 else [{}], "beat_tracking", ["0.wav", "times in seconds"]),
    ],
)
def test_a_wrong_label_is_named_with_its_clip_and_the_cure(refuse, label, value, task_type, words):
    message = refuse(label, value, task_type)
    assert all(word in message for word in words), message


def test_empty_tags_are_none(measure):
    record = measure("tags", lambda n: ["", " ", "a"] if n == 3 else ["a", "b"] if n % 2 else ["b"], "multilabel")
    assert tuple(record.task.task["labels"]) == ("a", "b")


@pytest.mark.parametrize("other", ["A", "\uff41", "a b", "cafe\u0301"])
def test_classes_that_differ_in_spelling_only_are_warned_of(tmp_path, sounds, other):
    first = {"a b": "A  B", "cafe\u0301": "caf\u00e9"}.get(other, "a")
    rows = [
        {"path": str(sounds / f"{n}.wav"), "split": SPLITS[n], "mood": (first, "z", other)[n % 3]} for n in range(16)
    ]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "own.toml").write_text('data = "."\ntask_type = "multiclass"\nlabel = "mood"\n')
    with pytest.warns(UserWarning, match="differ in spelling only, and count as 2 classes"):
        assert len(read_task(tmp_path / "own.toml")[0].labels) == 3


def test_a_column_of_tags_without_brackets_is_refused_with_the_name_to_write(refuse):
    assert "tags[]" in refuse("tags", lambda n: "rock|pop", "multilabel", is_csv=True)


NAMES = {"C": "C major", "Am": "A minor", "C:maj": "C major", "A:min": "A minor", "Cb major": "B major", "E# minor":
         "F minor", "Fb:min": "E minor", "B#": "C major", "c minor": "C minor", "F♯ minor": "Gb minor", "B♭:maj":
         "Bb major", "X": "X", "N": "X", "G Major": "G major", "bb minor": "Bb minor", "Bm": "B minor", "bm": "B minor",
         " D  min ": "D minor", "D other": "D other"}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_spellings_of_keys_are_scored_as_mir_evals_own(name):
    assert parse_key(name) == NAMES[name]
    for other in ("G major", "E minor", "C minor", "X"):
        for keys, expected in (((name, other), (NAMES[name], other)), ((other, name), (other, NAMES[name]))):
            assert key_weighted(np.array([0]), np.array([1]), keys) == weighted_score(*expected)


@pytest.mark.parametrize("name", ["", "H", "c", "C#b", "C-Dur", "None", "C major minor", "4A", "D / F minor", "C:M7"])
def test_what_is_no_key_is_refused(name):
    with pytest.raises(ValueError, match="is no key"):
        parse_key(name)


def test_keys_of_ones_own_are_measured_and_other_labels_refused_first(measure, refuse):
    more = 'metrics = ["key_weighted"]\nmonitor = "accuracy"\n'
    message = refuse("key", lambda n: ("4A", "8B")[n % 2], more=more)
    assert "key_weighted needs keys" in message and "'4A'" in message and "C major" in message
    record = measure("key", lambda n: ("C:maj", "Am")[n % 2], more=more)
    assert 0 <= record.scores["key_weighted"].value <= 1


@pytest.mark.parametrize("task_type", ["multiclass", "multilabel", "regression", "beat_tracking"])
def test_an_unknown_metric_is_refused_with_those_there_are(refuse, task_type):
    value = {"multiclass": "ab", "multilabel": [["a"], ["b"]], "regression": [1, 2], "beat_tracking": [[0.1], [0.2]]}
    message = refuse("x", lambda n: value[task_type][n % 2], task_type, 'metrics = ["acuracy"]\n')
    assert f"{task_type} has no metric 'acuracy'" in message and "It has " in message


def write_task(tmp_path, text, mark=""):
    (tmp_path / "labels.csv").write_text("path,split,mood\n" + "".join(f"{n}.wav,train,{n % 2}\n" for n in range(4)))
    (tmp_path / "own.toml").write_text(mark + text, encoding="utf-8")
    return tmp_path / "own.toml"


def test_a_byte_order_mark_and_line_ends_of_windows_are_read(tmp_path):
    text = 'data = "."\r\ntask_type = "multiclass"\r\nlabel = "mood"\r\n'
    assert read_task(write_task(tmp_path, text, "\ufeff"))[0].labels == ("0", "1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names neither data .* nor dataset; write data = "),
        ('data = "."\nlabel = "mood"', "lacks task_type; it is one of multiclass"),
        ('data = "."\ntask_type = "multclass"\nlabel = "mood"', "task_type is 'multclass'.*Did you mean 'multiclass'"),
        ('data = "."\ntask_type = "multiclass"', "lacks label; the columns .* mood"),
        ('data = "."\ntask_type = "multiclass"\nlabel = "mod"', "label is 'mod'; .* Did you mean 'mood'"),
        ('data = "."\ntask_type = "source_separation"', "no column names stems"),
        ("x = " + "[" * 5000, "not TOML"),
        ("x = " + "9" * 6000, "not TOML"),
        ('data = "."\ntask_type = "multiclass"\nlabel = "mood"\nwindow_seconds = inf', "window_seconds"),
    ],
)
def test_a_task_file_that_lacks_something_is_told_what(tmp_path, text, message):
    with pytest.raises((UsageError, DataError), match=message) as caught:
        read_task(write_task(tmp_path, text))
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.slow
def test_stems_of_ones_own_folder_are_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    rng = np.random.default_rng(0)
    lines = ["path,split,voice,band"]
    for n, split in enumerate(["train"] * 2 + ["valid"] * 2 + ["test"] * 2):
        voice, band = 0.1 * rng.standard_normal((2, 44_100 * 2))
        for name, samples in (("mix", voice + band), ("voice", voice), ("band", band)):
            soundfile.write(tmp_path / f"{n}.{name}.wav", samples, 44_100)
        lines.append(f"{n}.mix.wav,{split},{n}.voice.wav,{n}.band.wav")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    (tmp_path / "own.toml").write_text(
        'data = "."\ntask_type = "source_separation"\nwindow_seconds = 1.0\nexamples_per_clip = 1\nmax_epochs = 1\n'
    )
    task, dataset = read_task(tmp_path / "own.toml")
    assert task.labels == ("band", "voice") and task.metrics == ("sdr_band", "sdr_voice") and task.monitor == "sdr"
    (record,) = bench("mert-tiny:random", [task], results=tmp_path / "r", datasets={task.dataset: dataset})
    assert set(record.scores) == {"sdr", "sdr_band", "sdr_voice"}


def invoke(tmp_path, *arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def test_groups_in_several_splits_are_named(measure, sounds, tmp_path):
    rows = [{"path": str(sounds / f"{n}.wav"), "split": SPLITS[n], "group": f"song {n % 5}", "mood": "ab"[n % 2]}
            for n in range(16)]  # fmt: skip
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "own.toml").write_text('data = "."\ntask_type = "multiclass"\nlabel = "mood"\nmax_epochs = 1\n')
    task, dataset = read_task(tmp_path / "own.toml")
    with pytest.warns(UserWarning, match="5 groups are in several splits, such as song 0 in .*`carrara check "):
        bench("noise", [task], results=tmp_path / "results", datasets={task.dataset: dataset})


def test_each_record_is_printed_as_soon_as_it_is_complete(sounds, tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    rows = [{"path": str(sounds / f"{n}.wav"), "split": SPLITS[n], "mood": "ab"[n % 2]} for n in range(16)]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name in ("one", "two"):
        text = 'data = "."\ntask_type = "multiclass"\nlabel = "mood"\nmax_epochs = 1\n'
        (tmp_path / f"{name}.toml").write_text(text)
    (tmp_path / "results").mkdir()
    tasks = f"{tmp_path / 'one.toml'},{tmp_path / 'two.toml'}"
    done = invoke(tmp_path, "bench", "noise", "-t", tasks, "-o", tmp_path / "results", "--device", "cpu")
    assert [line.split("\t")[:2] for line in done.stdout.splitlines()] == [["noise", "one"], ["noise", "two"]]
    assert "noise on one: " in done.stderr and "record 1 of at most 2" in done.stderr
    path = next((tmp_path / "results").rglob("two@1.json"))
    path.write_text("{")
    done = invoke(tmp_path, "bench", "noise", "-t", tasks, "-o", tmp_path / "results", "--overwrite", "never")
    assert done.exit_code == 1 and done.stdout.startswith("noise\tone") and "two@1.json: not a record" in done.stderr


def test_a_broken_record_is_measured_anew(measure, tmp_path):
    measure("mood", lambda n: "ab"[n % 2])
    path = next((tmp_path / "results").rglob("own@1.json"))
    good = json.loads(path.read_text())
    path.write_text(path.read_text()[:100])
    measure("mood", lambda n: "ab"[n % 2])
    assert json.loads(path.read_text())["scores"] == good["scores"]


def test_task_files_that_would_overwrite_one_another_are_refused(sounds, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder / "music").mkdir(parents=True)
        rows = [{"path": str(sounds / f"{n}.wav"), "split": SPLITS[n], "mood": "ab"[n % 2]} for n in range(16)]
        (tmp_path / folder / "music" / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
        text = 'data = "music"\ntask_type = "multiclass"\nlabel = "mood"\nmax_epochs = 1\n'
        (tmp_path / folder / "mood.toml").write_text(text)
        (tmp_path / folder / f"{folder}.toml").write_text(text)
    run = ("bench", "noise", "-o", tmp_path / "results", "-t")
    done = invoke(tmp_path, *run, f"{tmp_path}/a/mood.toml,{tmp_path}/b/mood.toml")
    assert done.exit_code == 2 and "a second task called 'mood'" in done.stderr
    done = invoke(tmp_path, *run, f"{tmp_path}/a/a.toml,{tmp_path}/b/b.toml")
    assert done.exit_code == 2 and "another dataset called 'music'" in done.stderr
    (tmp_path / "b/b.toml").write_text(text + 'dataset = "other"\n')
    done = invoke(tmp_path, *run, f"{tmp_path}/a/a.toml,{tmp_path}/b/b.toml")
    assert done.exit_code == 0 and done.stdout.count("\n") == 2
