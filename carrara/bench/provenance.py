"""Where a record comes from: the fingerprint of its task, and the versions, the source and the command of its run.

The fingerprint is the identity of the task's fields, of the index (ids, splits and labels of its clips) and of the
versions below. Two records of one path with different fingerprints do not compare.
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

# Raised whenever a task type or a metric would give another value for the same logits.
VERSIONS = {"task_types": 1, "metrics": 1}
PACKAGES = ("carrara", "torch", "numpy", "scipy", "mir_eval", "soundfile", "soxr", "av")


def index_identity(clips: Sequence[Clip]) -> str:
    """Return the identity of the clips' ids, splits and labels."""
    return sha256_of_json([[clip.id, clip.split, clip.labels] for clip in clips])


def fingerprint(task: Task, index: str) -> str:
    """Return the identity of a task on an index."""
    return sha256_of_json([task.model_dump(mode="json", exclude={"name"}), index, VERSIONS])


def run_info(seeds: Sequence[int], device: str, seconds: dict[str, float]) -> RunInfo:
    """Return what a run took, with the software of this machine."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "none"
    return RunInfo(
        seed=seeds[0],
        seeds=tuple(seeds),
        device=device,
        seconds={phase: round(value, 3) for phase, value in seconds.items()},
        versions=versions,
        git=_source_commit(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(sys.argv),
    )


def _source_commit() -> str:
    """Return the commit of the package's source, with `-dirty` if it was changed; empty outside of git."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
