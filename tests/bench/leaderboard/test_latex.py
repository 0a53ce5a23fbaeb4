"""The leaderboard in LaTeX: its structure, and that any name is printed as it is."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carrara.bench.leaderboard.ranking import add_published, build_leaderboard
from carrara.bench.leaderboard.tables import escape_latex, to_latex
from carrara.bench.suites import MARBLE_14
from carrara.core.record import Record

# What LaTeX prints for a command; the names are those of its manual.
COMMANDS = {
    "textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<", "textgreater": ">",
    "textbar": "|", "textasciigrave": "`", "textendash": "–", "textdagger": "†", "textdaggerdbl": "‡", "S": "§",
}  # fmt: skip
SAMPLE = re.compile(
    r"\\([A-Za-z]+)(\{[^{}]*\})|\\(.)|\$\\(uparrow|downarrow)\$|\{([\[*])\}|(-)\{\}|([^\\{}$&%#_^~])", re.S
)


def typeset(text):
    """Return what LaTeX prints for text of the commands above; nothing else may be left over."""
    printed, offset = [], 0
    while offset < len(text):
        match = SAMPLE.match(text, offset)
        assert match, f"LaTeX would stop at {text[offset:]!r}"
        command, argument, char, arrow, bare, hyphen, plain = match.groups()
        if command == "textsuperscript":
            printed.append({"{2}": "²"}[argument])
        elif command:
            assert argument == "{}"
            printed.append(COMMANDS[command])
        else:
            printed.append({"uparrow": "↑", "downarrow": "↓"}.get(arrow, char or bare or hyphen or plain or ""))
        offset = match.end()
    return "".join(printed)


def record(system, task, value):
    return Record.model_validate(
        {
            "task": {"name": task, "version": 1, "fingerprint": "f", "task": {"metrics": ["m"], "monitor": "m"}},
            "data": {"name": task.partition("/")[0], "index": "i", "n": {"train": 3, "valid": 1, "test": 2}},
            "encoder": {"name": system, "weights_sha256": "00", "output_version": 1, "parameters": 10},
            "protocol": {"name": "constrained", "version": 1, "tried": 6, "chosen": {}, "monitor": "valid"},
            "grid": [],
            "scores": {"m": {"value": value, "low": value - 0.1, "high": value + 0.1, "unit": "clip", "n": 9}},
            "run": {"seed": 0, "device": "cpu", "seconds": {}, "versions": {}, "git": "", "date": "d", "command": "c"},
        }
    )


@given(st.text(st.one_of(st.characters(blacklist_categories=("Cs",)), st.sampled_from("\\{}$&%#_^~<>|[]*`-–†‡§↑↓²"))))
def test_any_text_is_printed_as_it_is(text):
    plain = "".join(char if char.isprintable() else " " for char in text)
    assert typeset(escape_latex(text)) == plain
    assert not re.search("--|[\r\n]", escape_latex(text))


def table_lines(text):
    """Return the columns of the table and its lines between the rules."""
    columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)[1]
    inner = re.search(r"\\toprule\n(.*)\n\\bottomrule", text, re.DOTALL)[1]
    return columns, [line for line in inner.splitlines() if line != r"\midrule"]


@pytest.mark.parametrize("systems", [2, 5])
@pytest.mark.parametrize("name", ["mert", r"a_b & 100% [x] {y}\\", "*"])
def test_every_line_has_one_field_per_column(systems, name):
    records = [record(f"{name}{index}", task, 0.5 + index / 10) for index in range(systems)
               for task in ("pebble/key", "pebble/tags", "pebble/genre")]  # fmt: skip
    text = to_latex(build_leaderboard(records))
    columns, lines = table_lines(text)
    assert columns == "l" + "r" * (systems if systems == 2 else 5)
    for line in lines:
        assert line.endswith(r" \\")
        assert len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1
        assert not re.match(r"[\[*]", line)
    without = re.sub(r"\\[{}\\]", "", text)
    assert without.count("{") == without.count("}")
    opened = re.findall(r"\\(begin|end)\{(\w+)\}", text)
    assert opened == [("begin", "table"), ("begin", "tabular"), ("end", "tabular"), ("end", "table")]


def test_the_best_of_a_task_is_bold_and_no_published_one_is():
    records = [record("good", task, 0.6) for task in MARBLE_14.tasks] + [record("poor", "gtzan/genre", 0.4)]
    text = to_latex(add_published([build_leaderboard(records)])[0])
    _, lines = table_lines(text)
    assert re.findall(r"\\textbf\{([^}]*)\}", text) == ["60.0"]
    genre = next(line for line in lines if line.startswith("gtzan/genre"))
    fields = [field.strip() for field in genre.removesuffix(r" \\").split("&")]
    assert fields[1] == r"\textbf{60.0} {\scriptsize [50.0, 70.0]}"
    assert fields[2] == r"40.0 {\scriptsize [30.0, 50.0]}"
    assert fields[3] == "83.5"
    assert r"MERT-v1-330M\textdaggerdbl{}" in lines[0]
