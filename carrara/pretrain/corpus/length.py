"""How long a sound of a corpus is: what its head says, or else counted."""

from __future__ import annotations

from carrara.audio.decode import blocks, probe
from carrara.pretrain.corpus.storage import as_file


def seconds_of(place: str, offset: int | None = None, size: int | None = None, name: str = "") -> float:
    """Return the length of a sound in seconds; decoded whole only where its head does not say.

    Args:
        place: path or address.
        offset, size: bytes of a member of a tar; none: the whole file.
        name: what messages call it; none: its address.

    Raises:
        AudioError: it cannot be read, is no sound file, or is cut short.
    """
    with as_file(place, offset, size, name) as path:
        head = probe(path)
        if head.duration_seconds is not None:
            return head.duration_seconds
        return sum(len(block_T) for block_T in blocks(path, head.sample_rate)) / head.sample_rate
