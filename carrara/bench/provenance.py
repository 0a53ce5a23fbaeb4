"""Where a record comes from: the fingerprint of what was asked, the versions and the command that answered.

The fingerprint is the identity of the task's fields, of the index (ids, sides and labels of the clips that take part)
and of the versions below. Two records of one path with different fingerprints answer different questions.
"""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from carrara.core.clip import Clip
from carrara.core.hashing import sha256_of_json
from carrara.core.record import RunInfo
from carrara.core.task import Task

# Raised whenever a kind of answer or a metric would give another value for the same logits.
VERSIONS = {"answers": 1, "metrics": 1}
PACKAGES = ("carrara", "torch", "numpy", "scipy", "mir_eval", "soundfile", "soxr", "av")


def index_identity(clips: Sequence[Clip]) -> str:
    """Return the identity of the clips' ids, sides and labels."""
    return sha256_of_json([[clip.id, clip.split, clip.labels] for clip in clips])


def fingerprint(task: Task, index: str) -> str:
    """Return the identity of a task asked of an index."""
    return sha256_of_json([task.model_dump(mode="json", exclude={"name"}), index, VERSIONS])


def run_part(seeds: Sequence[int], device: str, seconds: dict[str, float]) -> RunInfo:
    """Return what a run took, with the state of this machine's software."""
    return RunInfo(
        seed=seeds[0],
        seeds=tuple(seeds),
        device=device,
        seconds={phase: round(value, 3) for phase, value in seconds.items()},
        versions={"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        git=_source_state(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(sys.argv),
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _source_state() -> str:
    """Return the commit that the package's source stands at, `-dirty` if it was changed; empty outside of git."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    try:
        asked = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
