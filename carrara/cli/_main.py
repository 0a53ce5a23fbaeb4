"""The command line: the verbs, and only the verbs.

One public file of `verbs/` is one verb; its function carries the file's name and its docstring is the verb's help. A
name that Python keeps for itself ends in an underscore (`import_.py` is `carrara import`).
Standard output carries data, standard error talk. Exit 0: done. 1: something failed. 2: misused. 130: interrupted.
"""

from __future__ import annotations

import functools
import importlib
import os
import pkgutil
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

import carrara
from carrara import cli
from carrara.core.errors import CarraraError

ORDER = (
    "demo",
    "ls",
    "show",
    "download",
    "check",
    "import",
    "export",
    "embed",
    "tag",
    "bench",
    "leaderboard",
    "pretrain",
    "reproduce",
    "cache",
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def carrara_command(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
    progress: Annotated[
        bool | None, typer.Option("--progress/--no-progress", help="Progress bars; by default on a terminal only.")
    ] = None,
) -> None:
    """Pre-train, extract, benchmark and show music-audio representations.

    - `carrara demo`: from nothing to a leaderboard in minutes, with no download
    - `carrara embed ~/Music -e chroma-mfcc -o music.parquet`: features of your own audio
    - `carrara bench chroma-mfcc --suite pebble`: measure a representation
    """
    if version:
        typer.echo(f"carrara {carrara.__version__}")
        raise typer.Exit
    if debug:
        os.environ["CARRARA_DEBUG"] = "1"
    if progress is not None:
        os.environ["CARRARA_PROGRESS"] = "1" if progress else "0"


def mannered(verb: Callable[..., None]) -> Callable[..., None]:
    """Return the verb with errors as one line and the agreed exit codes; an interruption says how to go on."""
    name = verb.__name__.rstrip("_")

    @functools.wraps(verb)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            verb(*arguments, **options)
        except CarraraError as problem:
            if os.environ.get("CARRARA_DEBUG"):
                raise
            typer.echo(f"carrara {name}: {problem}", err=True)
            raise typer.Exit(problem.exit_code) from None
        except KeyboardInterrupt:
            typer.echo(f"carrara {name}: interrupted; the same command goes on where it stopped", err=True)
            raise typer.Exit(130) from None
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(141) from None

    return run


def _register() -> None:
    files = [module.name for module in pkgutil.iter_modules(cli.__path__) if not module.name.startswith("_")]
    found = {file.rstrip("_"): file for file in files}
    for name in sorted(found, key=lambda verb: (ORDER.index(verb) if verb in ORDER else len(ORDER), verb)):
        function = getattr(importlib.import_module(f"carrara.cli.{found[name]}"), found[name])
        app.command(name, no_args_is_help=False)(mannered(function))


_register()


def _warned(message: Warning | str, *where: Any, **how: Any) -> None:
    """Show a warning as one line, without the place in the source that it comes from."""
    typer.echo(f"carrara: {message}", err=True)


def main() -> None:
    """Run the command line and leave the process with its exit code."""
    # OpenMP's threads otherwise spin at every barrier; with anything else on the cores, small products then take 30
    # times as long (measured on 2 cores). It must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.showwarning = _warned
    app(prog_name="carrara")
