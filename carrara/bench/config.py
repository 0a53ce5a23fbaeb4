"""How records are made: the protocol with its settings, seeds, corruptions, and what is measured again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Literal, get_args

from carrara.audio.corruptions import parse_corruption
from carrara.bench import protocols
from carrara.core.errors import UsageError
from carrara.core.settings import parse_assignments, replace

Overwrite = Literal["never", "missing", "always"]


@dataclass(frozen=True)
class BenchConfig:
    """Settings of a benchmark run.

    Attributes:
        protocol: name of the protocol.
        settings: changes to the protocol's settings (`head=lstm`), by dotted path.
        seeds: of training; all are trained in one pass, and the intervals cover seeds and clips.
        corruptions: corruptions of the test audio on which the chosen probe is scored too.
        overwrite: whether a task with a record is measured again: `never`, only if its clips, seeds or versions changed
            (`missing`), or `always`.
        time_limit_hours: a task that takes longer is marked; a week in MARBLE [notes/benchmark §2.5].
    """

    protocol: str = "constrained"
    settings: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (1234,)
    corruptions: tuple[str, ...] = ()
    overwrite: Overwrite = "missing"
    time_limit_hours: float = 168.0

    @property
    def name(self) -> str:
        """Return the protocol's name in records, with the changed settings: `semi-constrained:head=lstm`."""
        changes = ",".join(f"{path}={value}" for path, value in sorted(self.settings.items()))
        return f"{self.protocol}:{changes}" if changes else self.protocol

    def check(self) -> None:
        """Check what does not depend on encoder and task.

        Raises:
            UsageError: an unknown protocol, setting or corruption, or one that the protocol does not support.
        """
        self.protocol_settings()
        if not self.seeds or not all(isinstance(seed, Integral) for seed in self.seeds):
            raise UsageError("seeds: there is none; give a number of at least 1, or the seeds as whole numbers")
        if self.overwrite not in get_args(Overwrite):
            raise UsageError(f"overwrite={self.overwrite!r}: give one of {', '.join(get_args(Overwrite))}")
        for corruption in self.corruptions:
            parse_corruption(corruption)
        if self.corruptions and not protocols.REGISTRY.get(self.protocol).supports_corruption:
            raise UsageError(f"--corrupt: the protocol {self.protocol} does not score corrupted audio; leave it out")

    def protocol_settings(self) -> Any:
        """Return the protocol's settings with the changes; None where it has none.

        Raises:
            UsageError: an unknown protocol or setting, or a value that does not fit.
        """
        protocol = protocols.REGISTRY.get(self.protocol)
        return replace(protocol.settings(), self.settings)


def parse_protocol_name(name: str, more: Mapping[str, Any] | None = None) -> BenchConfig:
    """Return the protocol and settings of a protocol's name in a record, the inverse of `BenchConfig.name`.

    Args:
        name: such as `semi-constrained:head=svm`.
        more: settings beside those of the name.

    Raises:
        UsageError: a change is not of the form setting=value, or `more` is no dictionary.
    """
    if more is not None and not isinstance(more, Mapping):
        raise UsageError('settings: give them by dotted path in a dictionary, such as {"head": "lstm"}')
    protocol, _, changes = name.partition(":")
    # Values may be lists, whose commas are followed by no setting.
    settings = parse_assignments(re.split(r",(?=[A-Za-z_][\w.]*=)", changes) if changes else ())
    return BenchConfig(protocol, {**settings, **(more or {})})
