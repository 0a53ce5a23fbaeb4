"""A bounded queue of recordings and the thread that encodes them, several requests in a batch.

A recording in a batch has the embedding that it has alone, so which requests meet changes nothing.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from carrara.core.errors import AudioError
from carrara.encoders._base import Encoder
from carrara.features.embed import embed_files
from carrara.features.embed_config import EmbedConfig

if TYPE_CHECKING:
    import pyarrow


@dataclass(frozen=True)
class EncodeJob:
    """A recording that waits for its embedding.

    Attributes:
        path: The file.
        name: What messages call it.
        encoder: Which of the queue's encoders.
        config: What a row of the result is.
        table: The result, or its exception.
    """

    path: Path
    name: str
    encoder: str
    config: EmbedConfig
    table: Future[pyarrow.Table] = field(default_factory=Future)


class EncodeQueue:
    """Encodes recordings one batch after another in a thread of its own.

    Args:
        encoders: By the name that a job gives.
        device: On which they run.
        max_waiting: Recordings that may wait; more are refused.
        max_batch: Most recordings of a batch.
        wait_seconds: How long a batch waits for more of them after its first.
        on_batch: Called with the number of recordings of each batch.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        device: str = "cpu",
        max_waiting: int = 64,
        max_batch: int = 16,
        wait_seconds: float = 0.02,
        on_batch: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.encoders, self.device = dict(encoders), device
        self.max_batch, self.wait_seconds, self.on_batch = max_batch, wait_seconds, on_batch
        self._jobs: queue.Queue[EncodeJob | None] = queue.Queue(max_waiting)
        self._encoder_thread = ThreadPoolExecutor(1, "encode")
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Return how many recordings wait."""
        return self._jobs.qsize()

    @property
    def is_full(self) -> bool:
        """Whether the next recording would be refused."""
        return self._jobs.full()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def submit(self, job: EncodeJob) -> Future[pyarrow.Table]:
        """Add a recording and return the future table of `carrara.embed`.

        Raises:
            queue.Full: Too many wait.
        """
        self._jobs.put_nowait(job)
        return job.table

    def close(self) -> None:
        """Let the thread end after the batches before this call, and wait for it."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        is_open = True
        while is_open:
            batch: list[EncodeJob] = []
            deadline = 0.0
            while len(batch) < self.max_batch:
                try:
                    job = self._jobs.get(timeout=max(deadline - time.monotonic(), 0) if batch else None)
                except queue.Empty:
                    break
                if job is None:
                    is_open = False
                    break
                deadline = deadline or time.monotonic() + self.wait_seconds
                if job.table.set_running_or_notify_cancel():  # otherwise its request has given up
                    batch.append(job)
            groups: dict[tuple[str, EmbedConfig], list[EncodeJob]] = {}
            for job in batch:
                groups.setdefault((job.encoder, job.config), []).append(job)
            for group in groups.values():
                self.on_batch(len(group))
                problem = self._encoder_thread.submit(self._encode, group).exception()
                for job in group if problem is not None else ():  # one batch's fault is not the next one's
                    if not job.table.done():
                        job.table.set_exception(problem)
        self._encoder_thread.shutdown()

    def _encode(self, jobs: list[EncodeJob]) -> None:
        """Set the results of jobs of one encoder and configuration."""
        import pyarrow

        by_path = {job.path: job for job in jobs}
        tables: dict[Path, list[pyarrow.Table]] = {job.path: [] for job in jobs}
        for chunk in embed_files(self.encoders[jobs[0].encoder], list(by_path), jobs[0].config, self.device):
            job = by_path[Path(chunk.path)]
            if chunk.table is not None:
                tables[job.path].append(chunk.table)
            elif chunk.problem is not None:
                job.table.set_exception(AudioError(chunk.problem.replace(str(job.path), job.name)))
            elif not tables[job.path]:
                job.table.set_exception(AudioError(f"{job.name}: too short for an embedding"))
            else:
                job.table.set_result(pyarrow.concat_tables(tables[job.path]))
