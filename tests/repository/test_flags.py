"""Commands and flags change only together with the list in tests/golden/flags.json."""

import json
import re
from pathlib import Path

import typer

from carrara.cli._main import app

GOLDEN = Path(__file__).parents[1] / "golden" / "flags.json"
PACKAGE = Path(__file__).parents[2] / "carrara"


def surface():
    group = typer.main.get_command(app)
    return {
        name: sorted(option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts))
        for name, command in {"": group, **group.commands}.items()
    }


def test_commands_and_flags_are_those_of_the_list():
    assert surface() == json.loads(GOLDEN.read_text())


def test_help_opens_with_a_sentence_and_three_examples():
    faults = []
    for name, command in typer.main.get_command(app).commands.items():
        examples = [line for line in command.help.splitlines() if line.strip().startswith(f"- `carrara {name}")]
        if len(examples) < 3 or command.help.startswith("-"):
            faults.append(name)
    assert not faults


def test_commands_in_the_package_exist():
    commands = {*typer.main.get_command(app).commands}
    named = re.compile(r"`carrara ([a-z]+(?:-[a-z]+)*)\b")
    unknown = {
        f"{path.name}: carrara {command}"
        for path in PACKAGE.rglob("*.py")
        for command in named.findall(path.read_text(encoding="utf-8"))
        if command not in commands
    }
    assert not unknown
