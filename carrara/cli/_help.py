"""Commands with a short column of types in their help, and common options before or behind a command's name."""

from __future__ import annotations

import textwrap
from itertools import islice
from typing import Any

from typer.core import TyperCommand, TyperGroup

TYPE_WORDS = {"str": "TEXT", "path": "PATH", "Path": "PATH", "int": "INT", "float": "FLOAT", "bool": ""}
MAX_TYPE = 16
COMMON_FLAGS = {"--debug", "--progress", "--no-progress", "--quiet", "-q", "--verbose", "-v"}
LOG_FILE = "--log-file"


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

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the options of all commands, which may stand behind the command's name too; return what is left."""
        end = args.index("--") if "--" in args else len(args)
        common, others, remaining = [], [], iter(args[:end])
        for argument in remaining:
            if argument in COMMON_FLAGS or argument.startswith(f"{LOG_FILE}="):
                common.append(argument)
            elif argument == LOG_FILE:
                common += [argument, *islice(remaining, 1)]
            else:
                others.append(argument)
        return super().parse_args(ctx, [*common, *others, *args[end:]])

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
