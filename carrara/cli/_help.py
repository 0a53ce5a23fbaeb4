"""Commands whose help has a short column of types: flags have none, and no type is cut in the middle of a word."""

from __future__ import annotations

import textwrap
from typing import Any

from typer.core import TyperCommand, TyperGroup

TYPE_WORDS = {"str": "TEXT", "path": "PATH", "Path": "PATH", "int": "INT", "float": "FLOAT", "bool": ""}
MAX_TYPE = 16


class HelpfulCommand(TyperCommand):
    """A command whose help has short types."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, each with the type that help shows."""
        return [_shorten_type(parameter, ctx) for parameter in super().get_params(ctx)]


class HelpfulGroup(TyperGroup):
    """Commands of which some have two words, `leaderboard serve` beside `leaderboard`."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, each with the type that help shows."""
        return [_shorten_type(parameter, ctx) for parameter in super().get_params(ctx)]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return name, command and remaining arguments; two words go before one."""
        command = self.commands.get(" ".join(args[:2]))
        return super().resolve_command(ctx, args) if command is None else (command.name, command, args[2:])


def _shorten_type(parameter: Any, ctx: Any) -> Any:
    """Return the parameter with `int range` as INT, values one below another, and nothing for a flag."""
    described = type(parameter).display_type(parameter, ctx).strip("<>").removesuffix(" range")
    described = described.removeprefix("list[").removesuffix("]")
    if "|" in described:
        shown = "\n".join(textwrap.wrap(described.replace("|", "| "), MAX_TYPE)).replace("| ", "|")
    else:
        shown = "" if parameter.param_type_name == "argument" else TYPE_WORDS.get(described, described)
    parameter.display_type = lambda ctx: shown
    return parameter
