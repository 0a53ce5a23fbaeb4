"""The errors that the package raises: one line that names the file or option, what is wrong with it and the cure.

The command line prints the line and exits with `exit_code`: 1 when something failed, 2 when the command was misused.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CarraraError(Exception):
    """Something failed; the message is one line that the user can act on."""

    exit_code = 1


class UsageError(CarraraError):
    """The request is invalid: an unknown name, a wrong option, an impossible setting."""

    exit_code = 2


class AudioError(CarraraError):
    """An audio file cannot be used; the message names the file and the reason."""


class DataError(CarraraError):
    """A dataset on disk differs from its documented layout."""


class AbsentError(DataError):
    """No file of a dataset is on this machine."""


class WeightsError(CarraraError):
    """A weights file is cut short, belongs to another network, or is unsafe to open."""


class StoreError(CarraraError):
    """A folder of features, records or checkpoints has other settings or cannot be written."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'x' or 'y'?` for the known words nearest to `word`, or an empty string."""
    names = set(known)
    same = [name for name in sorted(names) if name.lower() == word.lower()]
    close = same or difflib.get_close_matches(word, names, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(name) for name in close)}?" if close else ""
