"""A folder of recordings: CSV and JSON lines are read as written, and mistakes are named."""

import csv
import hashlib
import json
from collections import Counter

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from carrara.core.errors import DataError, UsageError
from carrara.data.folder import DATASET, FolderDataset

# With U+2028, U+0085, vertical tabs and form feeds inside, at which `str.splitlines` would part a value.
WORDS = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters=";\0\r\n"), min_size=1, max_size=60
).filter(lambda word: word == word.strip() and not word.startswith('"'))


def write_labels(tmp_path, text, name="labels.csv"):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_clips_splits_groups_and_labels_are_read_from_a_csv(tmp_path):
    root = write_labels(
        tmp_path,
        "path,split,group,start,duration,mood,tags[],valence\n"
        "a.wav,train,ann,,,calm,piano;slow,0.5\n"
        'b.wav,valid,bob,1.5,2,"wild, loud",,\n'
        "b.wav,,bob,4,,calm,drums,1\n\n",
    )
    first, second, third = DATASET.index(root)
    assert (first.id, first.path, first.start, first.duration, first.group) == ("a.wav", root / "a.wav", 0, None, "ann")
    assert first.labels == {"mood": "calm", "tags": ["piano", "slow"], "valence": "0.5"}
    assert (second.start, second.duration) == (1.5, 2.0) and second.labels == {"mood": "wild, loud", "tags": []}
    assert third.id != second.id
    assert DATASET.splits(root) == {"given": {first.id: "train", second.id: "valid"}}


@pytest.mark.parametrize(
    ("cell", "tags"),
    [
        ('"rock;pop"; jazz', ["rock;pop", "jazz"]),
        ('jazz;"a; ""b"""', ["jazz", 'a; "b"']),
        ('7" single;12" mix', ['7" single', '12" mix']),
        ('"live";rock', ['"live"', "rock"]),
        ('"open;rock', ['"open', "rock"]),
        (" ; ;", []),
    ],
)
def test_a_tag_with_a_semicolon_stands_in_quotes(tmp_path, cell, tags):
    with (tmp_path / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path", "tags[]"], ["a.wav", cell]])
    assert DATASET.index(tmp_path)[0].labels["tags"] == tags


def test_json_lines_keep_their_types(tmp_path):
    row = {"path": "x.flac", "id": "x", "beats": [0.5, 1.0], "emotion": {"valence": 2}}
    root = write_labels(tmp_path, "\n" + json.dumps(row) + "\n", "labels.jsonl")
    (clip,) = DATASET.index(root)
    assert clip.id == "x" and clip.labels == {"beats": [0.5, 1.0], "emotion": {"valence": 2}}


def test_without_splits_the_hash_of_the_group_determines_them(tmp_path):
    lines = [f"{number}.wav,{number % 40}" for number in range(400)]
    root = write_labels(tmp_path, "path,group\n" + "\n".join(lines))
    splits = DATASET.splits(root)["hashed"]
    for clip in DATASET.index(root):
        tenth = int(hashlib.sha1(clip.group.encode()).hexdigest(), 16) % 10
        assert splits[clip.id] == [*["train"] * 7, "valid", "test", "test"][tenth]
    assert not DATASET.check(root).leaks


@pytest.mark.parametrize("groups", range(1, 21))
def test_a_small_folder_of_six_groups_or_more_has_two_clips_in_each_split(tmp_path, groups):
    root = write_labels(
        tmp_path, "path,group\n" + "\n".join(f"{number}.wav,g{number // 2}" for number in range(2 * groups))
    )
    splits = DATASET.splits(root)["hashed"]
    counts = Counter(splits.values())
    if groups >= 6:
        assert min(counts["train"], counts["valid"], counts["test"]) >= 2 and counts["train"] >= groups // 2
    else:
        tenths = {g: int(hashlib.sha1(f"g{g}".encode()).hexdigest(), 16) % 10 for g in range(groups)}
        assert all(
            splits[f"{n}.wav"] == [*["train"] * 7, "valid", "test", "test"][tenths[n // 2]] for n in range(2 * groups)
        )
    assert not DATASET.check(root).leaks


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(WORDS, st.lists(WORDS, max_size=3)), min_size=1, max_size=5, unique_by=lambda row: row[0])
)
def test_any_table_of_the_csv_module_is_read_back(tmp_path_factory, delimiter, rows):
    root = tmp_path_factory.mktemp("folder")
    with (root / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["path", "tags[]"])
        writer.writerows([path, ";".join(tags)] for path, tags in rows)
    assert [(clip.id, clip.labels["tags"]) for clip in DATASET.index(root)] == rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,split\na.wav,trian\n", "line 2: split 'trian'.*'train'"),
        ("file,split\na.wav,train\n", "line 1: .*path"),
        ("path,x,x\na.wav,1,2\n", "line 1"),
        ("path,mood\na.wav\n", "line 2: 1 values for 2 columns"),
        ("path,start\na.wav,soon\n", "line 2: start 'soon'"),
        ("path,duration\na.wav,0\n", "line 2: duration"),
        ("path\na.wav\na.wav\n", "line 3: a second clip"),
        ("path,mood\n,calm\n", "line 2: no path"),
        ("file;mood\na.wav;calm\n", "line 1: .*separated by commas, semicolons or tabs; it is 'file;mood'"),
        ("path;mood\na.wav;calm;wild\n", "line 2: 3 values for 2 columns; quote values with semicolons"),
        ('path,mood\na.wav,calm\nb.wav,"one\ntwo\n', "line 3: not CSV .unexpected end of data"),
        ("path,mood\na.wav," + "x" * 140_000, "line 2: not CSV .field larger than field limit"),
        ("path;start\na.wav;0,5\n", "line 2: start '0,5' is not a length in seconds, such as 1.5"),
        ("path\n" + "a" * 300 + ".wav\n", "line 2: .*cannot be the path of a file"),
        ("path\na\0b.wav\n", "line 2: holds a NUL character"),
        ("path,mood\na.wav,calm\nb.wav,ca\0lm\n", "line 3: holds a NUL character"),
        ("path,mo\0od\na.wav,calm\n", "line 1: holds a NUL character"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        DATASET.index(write_labels(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"path": 1}', "line 1: no path"),
        ("[1]", "line 1: not a JSON object"),
        ("{", "line 1: not JSON"),
        ('{"path": "a", "x": NaN}', "line 1: NaN is no finite number"),
        ('{"path": "a", "x": 1e999}', "line 1: 1e999 is no finite number"),
        ('{"path": "a", "x": ' + "9" * 6000 + "}", "line 1: an integer of 6000 digits"),
        ('{"path": "a", "start": 1' + "0" * 400 + "}", "line 1: an integer of 401 digits"),
        ('{"path": "a", "x": ' + "[" * 5000 + "]" * 5000 + "}", "line 1: nested more than 100 levels"),
        ('{"path": "a", "x": ' + "[" * 120 + "]" * 120 + "}", "line 1: nested more than 100 levels"),
        ('{"path": "a", "x": "\\ud800"}', "line 1: holds half a character"),
        ('{"path": "a", "id": ["b"]}', "line 1: id is a list"),
        ('{"path": "a", "split": {"a": 1}}', "line 1: split"),
    ],
)
def test_a_mistake_in_json_lines_is_named(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        DATASET.index(write_labels(tmp_path, text, "labels.jsonl"))


def test_errors_of_a_missing_folder_or_labels_name_the_cure(tmp_path):
    with pytest.raises(DataError, match=r"labels\.csv nor labels\.jsonl"):
        DATASET.index(tmp_path)
    with pytest.raises(UsageError, match="--data-dir"):
        DATASET.root(None)
    assert FolderDataset(tmp_path).root(None) == tmp_path


def test_the_check_names_faulty_files(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c", "stray"):
        soundfile.write(tmp_path / f"{name}.wav", rng.standard_normal(800) * 0.1, 8000)
    (tmp_path / "twin.wav").write_bytes((tmp_path / "a.wav").read_bytes())
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    write_labels(
        tmp_path,
        "path,split,group\na.wav,train,one\nb.wav,test,one\nc.wav,valid,two\ntwin.wav,test,three\n"
        "gone.wav,train,four\nbroken.wav,train,five\n",
    )
    report = DATASET.check(tmp_path)
    assert not report.ok and report.found == 5
    assert report.missing == ("gone.wav",) and list(report.unreadable) == [str(tmp_path / "broken.wav")]
    assert report.extra == (str(tmp_path / "stray.wav"),) and report.duplicates == (("a.wav", "twin.wav"),)
    assert {(leak.group, leak.splits) for leak in report.leaks} == {
        ("one", ("test", "train")),
        ("a.wav = twin.wav", ("test", "train")),
    }
    assert "partial (4 of 6" in report.comparability["given"]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\v", "\f", "\x1c"])
def test_marks_that_only_python_takes_for_line_ends_stay_inside_a_value(tmp_path, mark):
    row = json.dumps({"path": "a.wav", "title": f"a{mark}b"}, ensure_ascii=False)
    (clip,) = DATASET.index(write_labels(tmp_path, row + "\r\n", "labels.jsonl"))
    assert clip.labels == {"title": f"a{mark}b"}
    (tmp_path / "labels.jsonl").unlink()
    (clip,) = DATASET.index(write_labels(tmp_path, f"path,title\r\na.wav,a{mark}b\r\n"))
    assert clip.labels == {"title": f"a{mark}b"}


def test_a_value_in_quotes_keeps_its_line_ends_and_the_lines_after_it_their_numbers(tmp_path):
    text = 'path,title,split\na.wav,"one\ntwo\r\nthree ""3""",train\nb.wav,x,trian\n'
    with pytest.raises(DataError, match="line 5: split 'trian'"):
        DATASET.index(write_labels(tmp_path, text))
    write_labels(tmp_path, text.replace("trian", "test"))
    assert DATASET.index(tmp_path)[0].labels["title"] == 'one\ntwo\r\nthree "3"'
