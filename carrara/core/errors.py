"""The errors that every room raises: one line that names the thing, what is wrong with it and the cure.

The command line prints the line and exits with `exit_code`: 1 when something failed, 2 when the command was misused.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CarraraError(Exception):
    """Something failed; the message is one line a person can act on."""

    exit_code = 1


class UsageError(CarraraError):
    """The request itself cannot be met: an unknown name, a bad option, an impossible setting."""

    exit_code = 2


class AudioError(CarraraError):
    """A sound file that cannot be used; the message names the file and the reason."""


class DataError(CarraraError):
    """A dataset on disk that is not what its layout says."""


class AbsentError(DataError):
    """A dataset of which nothing is on this machine."""


class WeightsError(CarraraError):
    """A weights file that is cut short, of another network, or unsafe to open."""


class StoreError(CarraraError):
    """A folder of features, records or checkpoints that was made otherwise or cannot be written."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'x' or 'y'?` for the known words nearest to `word`, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(name) for name in close)}?" if close else ""
