"""The command line: registers every command, and turns errors into one line and an exit code.

Each public file of this package is a command; its function has the file's name and its docstring is the help text. A
Python keyword gets an underscore (`import_.py` is `carrara import`), an underscore is a hyphen, two are a space
(`leaderboard__serve.py` is `carrara leaderboard serve`). Data goes to standard output, everything else to
standard error. Exit 0: done. 1: something failed. 2: misuse. 130: interrupted. 143: terminated.
"""

from __future__ import annotations

import functools
import importlib
import os
import pkgutil
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from carrara import cli
from carrara.cli._echo import echo
from carrara.cli._help import HelpfulCommand, HelpfulGroup
from carrara.cli._stdout import OutputError, exit_without_stdout, watch_stdout
from carrara.cli._streams import command_streams, set_verbosity
from carrara.core import __version__
from carrara.core.errors import CarraraError
from carrara.core.interrupts import InterruptibleCommand, stop_signal, watch_signals
from carrara.core.printable import one_line

ORDER = (
    "demo",
    "ls",
    "show",
    "new",
    "download",
    "check",
    "verify",
    "import",
    "export",
    "push",
    "plan",
    "embed",
    "find",
    "index",
    "dedupe",
    "map",
    "explore",
    "tag",
    "serve",
    "bench",
    "leaderboard",
    "leaderboard serve",
    "leaderboard token",
    "compare",
    "verify-record",
    "submit",
    "push-site",
    "pretrain",
    "reproduce",
    "cache",
)


app = typer.Typer(
    cls=HelpfulGroup,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def carrara_command(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    progress: Annotated[
        bool | None, typer.Option("--progress/--no-progress", help="Progress bars; by default on a terminal only.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but results and the final error.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also show what libraries log.")] = False,
    log_file: Annotated[
        Path | None, typer.Option("--log-file", help="Also append what is said on standard error to this file.")
    ] = None,
) -> None:
    """Pre-train, extract, benchmark and show music-audio representations.

    - `carrara demo`: from nothing to a leaderboard in minutes, without downloads
    - `carrara embed ~/Music -e chroma-mfcc -o music.parquet`: features of your own audio
    - `carrara bench chroma-mfcc --suite pebble`: benchmark a representation

    Environment: CARRARA_DATA (datasets, ~/mir_datasets), CARRARA_HOME (features and imported encoders,
    ~/.cache/carrara), CARRARA_PROGRESS (0 or 1), CARRARA_DEBUG=1 (tracebacks), HF_HOME and HF_HUB_OFFLINE (the hub),
    NO_COLOR, COLUMNS. `carrara --install-completion` completes commands and options in your shell. --quiet, --verbose,
    --log-file, --progress and --debug may stand behind a command's name too.
    """
    if version:
        echo(f"carrara {__version__}")
        raise typer.Exit
    if debug:
        os.environ["CARRARA_DEBUG"] = "1"
    if progress is not None:
        os.environ["CARRARA_PROGRESS"] = "1" if progress else "0"
    set_verbosity(quiet, verbose, log_file)


def cli_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with errors as one line and the documented exit codes."""
    name = _command_name(command.__name__)

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            with command_streams(), InterruptibleCommand():
                command(*arguments, **options)
        except CarraraError as problem:
            if os.environ.get("CARRARA_DEBUG"):
                raise
            echo(f"carrara {name}: {one_line(str(problem))}", err=True)
            raise typer.Exit(problem.exit_code) from None
        except KeyboardInterrupt:
            word = "interrupted" if stop_signal() == signal.SIGINT else "terminated"
            echo(f"carrara {name}: {word}; run the same command again to continue", err=True)
            raise typer.Exit(128 + stop_signal()) from None
        except OutputError as problem:
            exit_without_stdout(problem)
        except OSError as problem:
            # What the operating system refuses (a name too long, a full or read-only disk) is no fault of the package.
            if os.environ.get("CARRARA_DEBUG") or not problem.strerror:
                raise
            subject = "" if problem.filename is None else f"{problem.filename}: "
            message = one_line(f"{subject}{problem.strerror}")
            echo(f"carrara {name}: {message} (carrara --debug {name} … shows where)", err=True)
            raise typer.Exit(1) from None

    return run


def _command_name(module: str) -> str:
    return module.rstrip("_").replace("__", " ").replace("_", "-")


def _register_commands() -> None:
    modules = {
        _command_name(module.name): module.name
        for module in pkgutil.iter_modules(cli.__path__)
        if not module.name.startswith("_")
    }
    for name in sorted(modules, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name)):
        function = getattr(importlib.import_module(f"carrara.cli.{modules[name]}"), modules[name])
        app.command(name, cls=HelpfulCommand, no_args_is_help=False)(cli_errors(function))


_register_commands()


@functools.cache
def _echo_warning(line: str) -> None:
    """Print a warning, the first time only: libraries give the same one for every encoder and file."""
    echo(f"carrara: {line}", err=True)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Show a warning as one line, without its source line."""
    _echo_warning(one_line(str(message)))


def main() -> None:
    """Run the command line and exit with its code."""
    # OpenMP's threads otherwise spin at every barrier; with anything else on the cores, small products then take 30
    # times as long (measured on 2 cores). It must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Large tensors in huge pages, where Linux gives them on request: half of the time of MusiCNN and CLMR went into
    # faults of small ones. It must be set before the first tensor.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    warnings.showwarning = _show_warning
    watch_stdout()
    watch_signals()
    try:
        try:
            app(prog_name="carrara")
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except OutputError as problem:
        exit_without_stdout(problem)
