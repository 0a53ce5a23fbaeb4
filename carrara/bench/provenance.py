"""The provenance of a record: the fingerprint of its task, and the software, source commit and command of its run.

The fingerprint is a SHA-256 over the task's fields, its clips (ids, splits and labels) and the versions below. Records
of a task with different fingerprints are not comparable.
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

# Raised whenever a task type or a metric computes another value from the same logits.
VERSIONS = {"task_types": 1, "metrics": 1}
PACKAGES = ("carrara", "torch", "numpy", "scipy", "mir_eval", "soundfile", "soxr", "av")


def index_identity(clips: Sequence[Clip]) -> str:
    """Return the SHA-256 of the clips' ids, splits and labels."""
    return sha256_of_json([[clip.id, clip.split, clip.labels] for clip in clips])


def fingerprint(task: Task, index: str) -> str:
    """Return the SHA-256 of a task, the hash of its clips and the versions of the code that scores it.

    Args:
        task: the task; its name does not count.
        index: the hash of its clips, from `index_identity`.
    """
    return sha256_of_json([task.model_dump(mode="json", exclude={"name"}), index, VERSIONS])


def run_info(seeds: Sequence[int], device: str, seconds: dict[str, float]) -> RunInfo:
    """Return a run's seeds, device and seconds with the versions, commit, date and command of this process."""
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
