"""Printing: every line that the command line writes passes here, so that no name from a file controls the terminal."""

from __future__ import annotations

import typer

from carrara.core.printable import printable


def echo(text: str = "", err: bool = False, nl: bool = True) -> None:
    """Write text to standard output, or to standard error, without control codes."""
    typer.echo(printable(text), err=err, nl=nl)
