"""Output fits 80 and 120 columns, breaks no name and no number, and has one line each where nothing has a width."""

import re

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from carrara.bench.leaderboard.tables import frame_to_text, print_frame, split_columns
from carrara.cli._layout import reflow, settings_rows
from carrara.cli._main import app
from carrara.cli._registries import KINDS, list_entries
from carrara.core.settings import Settings

WIDTHS = (80, 120)


def output(monkeypatch, width, *arguments):
    monkeypatch.setenv("COLUMNS", str(width))
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_lists_fit_and_name_every_entry(monkeypatch, width, kind):
    text = output(monkeypatch, width, "ls", kind)
    assert max(map(len, text.splitlines())) <= width
    assert set(list_entries(kind)) <= set(text.split())


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "name", ["semi-constrained", "mert-v0", "data:gtzan", "pebble/key", "maest-30s", "folder", "lstm", "data:pebble"]
)
def test_entries_fit_but_for_words_that_are_longer(monkeypatch, width, name):
    text = output(monkeypatch, width, "show", name)
    long = [line for line in text.splitlines() if len(line) > width]
    # A URL or a path is not broken, and an indented example stays as it is written.
    assert all(len(max(line.split(), key=len)) > width - 34 or line.startswith("    ") for line in long)
    assert "{'" not in text and not re.search(r"  (None|True|False)(  |$)", text, re.M)


def test_show_has_a_table_of_settings_with_defaults_and_meanings(monkeypatch):
    lines = output(monkeypatch, 120, "show", "semi-constrained").splitlines()
    line = next(line for line in lines if line.startswith("dropout "))
    assert " ".join(line.split()) == "dropout 0.2 fraction of them that is dropped in training."


def test_heads_and_datasets_have_a_table_of_settings_too(monkeypatch):
    head = output(monkeypatch, 80, "show", "lstm")
    assert "semi-constrained --set head=lstm" in head and re.search(
        r"^hidden +512 +units of a hidden layer", head, re.M
    )
    pebble = output(monkeypatch, 80, "show", "data:pebble")
    assert re.search(r"^--size +demo ", pebble, re.M) and re.search(r"^--data-dir +\$CARRARA_DATA", pebble, re.M)
    gtzan = output(monkeypatch, 80, "show", "gtzan")
    assert "--size" not in gtzan and re.search(r"^1\. genres\.tar\.gz.*\n^   https", gtzan, re.M)


@pytest.mark.parametrize("name", list_entries("data"))
def test_facts_of_datasets_are_words(monkeypatch, name):
    text = output(monkeypatch, 80, "show", f"data:{name}")
    facts = re.split(r"\nOptions of |\nFiles that |\nBy hand:", text[text.rindex("\ntitle  ") :])[0]
    titles = re.findall(r"^(\S.*?)(?:  |:$)", facts, re.M)
    assert {"title", "licence"} <= set(titles)
    # Names of split schemes and of the entry itself may have any characters.
    assert not [title for title in titles if "_" in title.partition(" of ")[0] or re.search(r"\.\d|\.\w", title)]


def test_a_name_in_two_registries_shows_both(monkeypatch):
    text = output(monkeypatch, 80, "show", "mert-v0")
    assert "mert-v0  (encoders)" in text and "mert-v0  (recipes)" in text
    assert "mert-v0  (recipes)" not in output(monkeypatch, 80, "show", "encoders:mert-v0")


def test_ready_lists_what_loads_here(monkeypatch, tmp_path):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path))
    monkeypatch.setenv("CARRARA_DATA", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    (tmp_path / "gtzan").mkdir()
    ready = [line.split()[0] for line in output(monkeypatch, 300, "ls", "encoders", "--ready").splitlines()]
    assert {"chroma", "mfcc", "noise"} <= set(ready) and "mert-v0" not in ready
    assert [line.split()[0] for line in output(monkeypatch, 300, "ls", "data", "--ready").splitlines()] == ["gtzan"]
    assert CliRunner().invoke(app, ["ls", "tasks", "--ready"]).exit_code == 2


@pytest.mark.parametrize("width", WIDTHS)
def test_a_wide_table_becomes_several_with_every_cell_whole(monkeypatch, capsys, width):
    frame = pd.DataFrame(
        {
            f"system-{column}": [f"{column}{row}.5 [{column}0.1, {column}9.9]" for row in range(3)]
            for column in range(9)
        },
        index=["pebble/key", "pebble/a-long-name", "rank"],
    )
    monkeypatch.setenv("COLUMNS", str(width))
    print_frame("title", frame, ["a note " * 30])
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= width
    assert all(cell in printed for cell in frame.to_numpy().flat)
    assert printed.count("pebble/a-long-name") == len(list(split_columns(frame, width))) > 1
    monkeypatch.delenv("COLUMNS")
    print_frame("title", frame, [])
    assert capsys.readouterr().out.count("pebble/a-long-name") == 1


@pytest.mark.parametrize("width", range(60, 100))
def test_text_of_a_table_fits_any_width_with_every_cell_whole(width):
    cells = [["64.5 [61.0, 67.6]†", "9.1 [7.7, 12.0]", "floor", "–"], ["1", "-7.4 [-12.8, -2.3]", "99.9", "2"]]
    frame = pd.DataFrame(cells, index=["average of the 7 shared", "rank"], columns=["cqt-mel", "b", "a-long-name", "d"])
    text = frame_to_text("title", frame, ["a note " * 30], width)
    assert max(map(len, text.splitlines())) <= width
    assert all(cell in text for cell in [*frame.columns, *frame.to_numpy().flat])


def test_paragraphs_are_wrapped_and_examples_are_not():
    prose = "A sentence of many words that is broken\nin the source."
    text = f"{prose}\n\n    code stays    as it is\n\n- an item that\n  goes on\n- next"
    assert reflow(text, 30).split("\n\n") == [
        "A sentence of many words that\nis broken in the source.",
        "    code stays    as it is",
        "- an item that goes on\n- next",
    ]
    assert reflow(text, None) == text


def test_descriptions_of_settings_come_from_the_class():
    class Inner(Settings):
        """Inner settings.

        Attributes:
            a, b: two sizes: width
                and height.
        """

        a: int = 1
        b: tuple[float, ...] = (0.5, 2)

    class Outer(Settings):
        """Outer settings.

        Attributes:
            inner: the inner ones.
            off: whether it is off.
        """

        inner: Inner = Inner()
        off: bool = False
        missing: str | None = None

    assert list(settings_rows(Outer())) == [
        ("inner.a", "1", "two sizes: width and height."),
        ("inner.b", "0.5, 2", "two sizes: width and height."),
        ("off", "false", "whether it is off."),
        ("missing", "none", ""),
    ]


def list_commands():
    return ["", *typer.main.get_command(app).commands]


@pytest.mark.parametrize("name", list_commands())
def test_help_fits_and_names_types_in_words(monkeypatch, name):
    text = output(monkeypatch, 80, *name.split(), "--help")
    assert max(map(len, text.splitlines())) <= 80
    assert not re.search(r"<(bool|str|int|float|path|list)|range>|list\[|\|\s+\w\s+│$", text, re.M)
    # Values of a choice stand whole: none is cut at the end of its line.
    command = typer.main.get_command(app)
    command = command.commands[name] if name else command
    for choices in (parameter.type_descriptor.choices for parameter in command.params if name):
        assert all(re.search(rf"(?<!\w){re.escape(choice)}(?!\w)", text) for choice in choices or ())


@pytest.mark.parametrize("name", list_commands())
def test_help_has_an_example_and_describes_every_option(monkeypatch, name):
    command = typer.main.get_command(app)
    command = command.commands[name] if name else command
    assert f"- `carrara {name}".rstrip() in command.help
    missing = [parameter.name for parameter in command.params if not getattr(parameter, "help", None)]
    assert missing == []


def test_notes_of_a_layout_wrap_in_their_column_or_beneath_the_file():
    text = "Layout:\n\n    audio/<id>.wav    mono, 22,050 Hz, of a length that is not the same in all files\n    a.csv"
    column = " " * len("    audio/<id>.wav    ")
    assert reflow(text, 60).split("\n")[2:] == [
        "    audio/<id>.wav    mono, 22,050 Hz, of a length that is",
        f"{column}not the same in all files",
        "    a.csv",
    ]
    assert reflow(text, 45).split("\n")[2:] == [
        "    audio/<id>.wav",
        "        mono, 22,050 Hz, of a length that is",
        "        not the same in all files",
        "    a.csv",
    ]
    assert reflow(text, 100) == text
