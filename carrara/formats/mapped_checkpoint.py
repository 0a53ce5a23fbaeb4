"""Checkpoints larger than the memory: opened so that a tensor costs memory only once it is copied.

`carrara.formats.safe_pickle` maps torch's zip files anyway, and copies what is in the older kind, because the file may have put
it at odd addresses. Here the older kind is not copied either: copy a tensor before computing with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import UntypedStorage

from carrara.formats.safe_pickle import is_zip, read_torch_checkpoint, read_legacy


def mapped_checkpoint(path: Path) -> Any:
    """Return what a torch file of either kind holds, its tensors still on the disk.

    Raises:
        WeightsError: it is not a torch file, not whole, or one that `carrara.formats.safe_pickle` refuses.
    """
    path = Path(path)
    return read_torch_checkpoint(path) if is_zip(path) else read_legacy(path, _as_it_lies)


def _as_it_lies(storage: UntypedStorage) -> UntypedStorage:
    return storage
