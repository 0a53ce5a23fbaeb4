"""How records are made: which protocol with which settings, seeds and deformations, and what is measured again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from carrara.audio.deform import read as read_deformation
from carrara.bench import protocols
from carrara.bench.protocols._base import Protocol
from carrara.core.errors import UsageError
from carrara.core.settings import replace


@dataclass(frozen=True)
class BenchConfig:
    """How records are made.

    Attributes:
        protocol: name of the rules.
        settings: what the protocol lets a person set (`head=lstm`), by dotted path.
        seeds: of the draws; several ride in one pass, and the intervals cover both seeds and clips.
        deform: deformations that the chosen probe's test sound is spoilt by, one at a time.
        overwrite: measure again `never`, when there is no record of this very question (`missing`), or `always`.
        wall_hours: a task that takes longer is marked; a week in MARBLE (benchmark.md 2.5).
    """

    protocol: str = "constrained"
    settings: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (1234,)
    corruptions: tuple[str, ...] = ()
    overwrite: Literal["never", "missing", "always"] = "missing"
    time_limit_hours: float = 168.0

    @property
    def name(self) -> str:
        """Return the protocol's name as records carry it: with what was set, `semi-constrained:head=lstm`."""
        changed = ",".join(f"{path}={value}" for path, value in sorted(self.settings.items()))
        return f"{self.protocol}:{changed}" if changed else self.protocol

    def check(self) -> None:
        """Refuse what no task could be measured under.

        Raises:
            UsageError: an unknown protocol, setting or deformation, or a deformation that the protocol cannot take.
        """
        protocol = protocols.REGISTRY.get(self.protocol)
        self.read(protocol)
        for deform in self.corruptions:
            read_deformation(deform)
        if self.corruptions and not protocol.deforms:
            raise UsageError(f"--deform: the protocol {self.protocol} cannot be asked about spoilt sound")

    def read(self, protocol: Protocol) -> Any:
        """Return the protocol's settings as they are set here; none where it has none.

        Raises:
            UsageError: an unknown setting, or a value that does not fit.
        """
        if protocol.settings is None:
            if self.settings:
                raise UsageError(f"--set: the protocol {protocol.name} has nothing to set")
            return None
        return replace(protocol.settings(), self.settings)
