"""Tables as other programs write them: read with the same values, or refused in one line that names the cure."""

import json

import pytest
from typer.testing import CliRunner

from carrara.cli._main import app
from carrara.core.errors import DataError
from carrara.data.folder import FolderDataset

ROWS = [("a.wav", "train", "calm; soft", 'say "hi"'), ("b.wav", "valid", "wild", "1,5"), ("c.wav", "test", "", "x")]
HEADER = ("path", "split", "tags[]", "note")


def quoted(value):
    return '"' + value.replace('"', '""') + '"'


def table(delimiter=",", end="\n", mark="", quote=quoted):
    return mark + end.join(delimiter.join(map(quote, row)) for row in (HEADER, *ROWS)) + end


READ = {
    "commas": table(),
    "semicolons": table(";"),
    "tabs": table("\t"),
    "line ends of Windows": table(end="\r\n"),
    "line ends of old Macs": table(end="\r"),
    "byte-order mark": table(mark="\ufeff"),
    "byte-order mark, semicolons, Windows": table(";", "\r\n", "\ufeff"),
    "no last line end": table().rstrip("\n"),
    "blank lines": table(end="\n\n"),
    "blanks around": table(
        quote=lambda value: f" {value} " if '"' not in value and "," not in value else quoted(value)
    ),
}


@pytest.mark.parametrize("name", READ)
def test_the_values_are_the_same_however_they_are_written(tmp_path, name):
    (tmp_path / "labels.csv").write_bytes(READ[name].encode())
    clips = FolderDataset(tmp_path).index(tmp_path)
    assert [(clip.id, clip.split) for clip in clips] == [row[:2] for row in ROWS]
    assert [clip.labels for clip in clips] == [
        {"tags": ["calm", "soft"], "note": 'say "hi"'}, {"tags": ["wild"], "note": "1,5"}, {"tags": [], "note": "x"}
    ]  # fmt: skip


REFUSED = {
    "bars": (table("|").encode(), "separated by commas, semicolons or tabs"),
    "colons": (table(":").encode(), "separated by commas, semicolons or tabs"),
    "Excel's line of the separator": (
        ("sep=;\n" + table(";")).encode(),
        "line 1: the first line must name the columns",
    ),
    "UTF-16": (table().encode("utf-16"), "cannot be read as UTF-8"),
    "UTF-16 without a mark": (table().encode("utf-16-be"), "NUL .*UTF-16.* write it in UTF-8"),
    "Latin-1": (
        table().replace("soft", "d\xe9sol\xe9").encode("latin-1"),
        "cannot be read as UTF-8.* write it in UTF-8",
    ),
    "a header in capitals": (b"Path,Split\na.wav,train\n", "one of them path.* it is 'Path,Split'"),
    "another name of the path": (b"filename,split\na.wav,train\n", "one of them path"),
    "no header": (b"a.wav,train\nb.wav,test\n", "the first line must name the columns"),
    "blank lines alone": (b"\n\n", "the first line must name the columns"),
    "a quote that never ends": (b'path,mood\na.wav,"calm\nb.wav,wild\n', "not CSV"),
    "a split in capitals": (b"path,split\na.wav,Train\n", "'Train' is not one of .* Did you mean 'train'"),
    "another name of a split": (b"path,split\na.wav,validation\n", "Did you mean 'valid'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_tables_are_refused_in_one_line(tmp_path, name):
    content, message = REFUSED[name]
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        FolderDataset(tmp_path).index(tmp_path)
    assert "\n" not in str(caught.value) and "labels.csv" in str(caught.value)
    done = CliRunner().invoke(app, ["check", str(tmp_path)])
    assert done.exit_code == 1 and len(done.stderr.splitlines()) == 1, done.output


@pytest.mark.parametrize(
    "path",
    ["file:///etc/passwd", "http://127.0.0.1:9/a.wav", "C:\\Music\\a.wav", "sub\\a.wav", "concat:a.wav|b.wav", "-"],
)
def test_addresses_and_paths_of_other_systems_are_missing_files(tmp_path, path):
    rows = [{"path": path, "split": "train"}, {"path": "b.wav", "split": "test"}]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = CliRunner().invoke(app, ["check", str(tmp_path)])
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit)
    assert "missing" in done.output.lower()
