"""Files from the network: resumed where they broke off, checked by SHA-256, unpacked nowhere but below their folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Remote:
    """A file that a program may download.

    Attributes:
        url: where it is, pinned to a version where its host allows that.
        path: where it belongs, below a dataset's root.
        sha256: of its content; none where the source pins nothing.
        unpack: folder below the root into which the archive is unpacked; none: it is no archive.
    """

    url: str
    path: str
    sha256: str | None = None
    unpack: str | None = None


def download(remote: Remote, root: Path) -> Path:
    """Return where a remote file stands below `root`, downloading what is not there yet."""
    raise NotImplementedError
