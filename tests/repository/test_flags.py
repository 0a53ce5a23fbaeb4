"""The command line's surface is frozen: a new verb or flag is a decision, so it changes this list."""

import json
from pathlib import Path

import pytest
import typer

from carrara.cli._main import app

GOLDEN = Path(__file__).parents[1] / "golden" / "flags.json"


def surface():
    group = typer.main.get_command(app)
    return {
        name: sorted(option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts))
        for name, command in {"": group, **group.commands}.items()
    }


def test_verbs_and_flags_are_the_frozen_ones():
    assert surface() == json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("verb", [verb for verb in surface() if verb])
def test_help_opens_with_three_examples(verb):
    help_text = typer.main.get_command(app).commands[verb].help
    examples = [line for line in help_text.splitlines() if line.strip().startswith(f"- `carrara {verb}")]
    assert len(examples) >= 3
    assert not help_text.splitlines()[0].startswith("-")
