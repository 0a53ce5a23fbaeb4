"""Embeds recordings on a Ray cluster: `embed_files` in each actor of a Ray Data pool, its chunks in order.

The driver names the recordings and writes what comes back, so a killed driver is a killed `carrara embed`: run again,
it continues. Ray Data starts a killed actor anew and repeats its batch, and gives no more batches to the actors than
the driver takes away.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Iterator, MutableMapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carrara.core.errors import CarraraError, StoreError, UsageError
from carrara.core.storage import is_remote
from carrara.encoders._base import Encoder
from carrara.features.embed import EmbedChunk, embed_files
from carrara.features.embed_config import EmbedConfig
from carrara.features.hash_cache import FileHashCache

if TYPE_CHECKING:
    import pyarrow

LOCAL = "local"
BATCH_FILES, MAX_BATCHES = 16, 20_000  # recordings of a batch: what a killed actor costs; more where these are many
LOCAL_STORE_BYTES = 512 * 2**20


@dataclass(frozen=True)
class RayCluster:
    """Where and by how many actors recordings are embedded.

    Attributes:
        address: "local" for a cluster of this machine that ends with the command, "auto" for the one that runs here, or
            its address.
        workers: Number of actors. None means one for each GPU, or without GPUs for each CPU.
        cpus: CPUs of an actor, and threads that it computes with.
        gpus: GPUs of an actor, which may be a fraction.
    """

    address: str = LOCAL
    workers: int | None = None
    cpus: int = 1
    gpus: float = 0.0


def embed_on_ray(
    cluster: RayCluster,
    encoder: Encoder,
    files: Sequence[Path | str],
    config: EmbedConfig,
    device: str,
    batch_size: int | None,
    advance: Callable[..., None],
    hashes: MutableMapping[str, str],
) -> Generator[EmbedChunk, None, None]:
    """Yield the same chunks as `embed_files`, file after file in order.

    Args:
        cluster: The cluster and its actors.
        encoder, files, config, device, batch_size, advance: As of `embed_files`. Local files must be on every node.
        hashes: Receives the SHA-256 of each recording by path, before its chunks are yielded.

    Raises:
        UsageError: Ray is not installed, or no cluster answers at the address.
        StoreError: The cluster failed.
    """
    import pyarrow

    with _connect(cluster) as ray:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        # Repeated without end, a batch that kills its actors each time would never be reported.
        context.max_errored_blocks = 0
        total = ray.cluster_resources()
        workers = cluster.workers or max(
            int(total.get("GPU", 0) / cluster.gpus if cluster.gpus else total.get("CPU", 2) - 1), 1
        )
        batch_files = max(BATCH_FILES, -(-len(files) // MAX_BATCHES))
        paths = [str(path) for path in files]
        tables = [
            pyarrow.table({"path": paths[first : first + batch_files]}) for first in range(0, len(paths), batch_files)
        ]
        chunks = ray.data.from_arrow(tables).map_batches(
            _EmbedActor,
            fn_constructor_args=(ray.put(encoder.cpu()), config, device, batch_size, cluster.cpus, os.getcwd()),
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(tables))),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=cluster.cpus,
            num_gpus=cluster.gpus or None,
        )
        done = 0
        try:
            for table in chunks.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
                for row in table.to_pylist():
                    chunk = _to_chunk(row)
                    hashes[row["path"]] = row["sha256"]
                    done += chunk.table is None
                    seconds = 0.0 if chunk.table is None else sum(chunk.table["duration"].to_pylist())
                    advance(seconds, f"{done:,} of {len(files):,} files")
                    yield chunk
        except ray.exceptions.RayError as problem:
            raise StoreError(f"--ray {cluster.address}: {_reason(problem)}") from None


class _EmbedActor:
    """An actor with the encoder; it is given batches of paths and yields a table with a row for each chunk."""

    def __init__(
        self, encoder: Any, config: EmbedConfig, device: str, batch_size: int | None, threads: int, folder: str
    ) -> None:
        import ray

        from carrara.nn.device import limit_threads

        if os.path.isdir(folder):  # relative paths are the driver's
            os.chdir(folder)
        limit_threads(threads)
        self.encoder = ray.get(encoder) if isinstance(encoder, ray.ObjectRef) else encoder
        self.config, self.device, self.batch_size = config, device, batch_size
        self.cache = FileHashCache()

    def __call__(self, batch: pyarrow.Table) -> Iterator[pyarrow.Table]:
        import pyarrow

        hashes: dict[str, str] = {}

        @contextmanager
        def open_hashed(path: Path | str) -> Iterator[Path]:
            with self.cache.open(path, in_ranges=self.config.sample is not None) as (file, hashes[str(path)]):
                yield file

        files = [path if is_remote(path) else Path(path) for path in batch["path"].to_pylist()]
        chunks = embed_files(
            self.encoder, files, self.config, self.device, self.batch_size, opened=open_hashed, threads=2
        )
        with closing(chunks):
            for chunk in chunks:
                content = None
                if chunk.table is not None:
                    sink = pyarrow.BufferOutputStream()
                    with pyarrow.ipc.new_stream(sink, chunk.table.schema) as writer:
                        writer.write_table(chunk.table)
                    content = sink.getvalue().to_pybytes()
                digest = hashes.get(str(chunk.path), "")
                row = {"path": str(chunk.path), "sha256": digest, "problem": chunk.problem, "table": content}
                yield pyarrow.Table.from_pylist([row], schema=_chunk_schema())


def _chunk_schema() -> pyarrow.Schema:
    import pyarrow

    text = pyarrow.string()
    return pyarrow.schema({"path": text, "sha256": text, "problem": text, "table": pyarrow.large_binary()})


def _to_chunk(row: dict[str, Any]) -> EmbedChunk:
    import pyarrow

    path = row["path"] if is_remote(row["path"]) else Path(row["path"])
    table = None if row["table"] is None else pyarrow.ipc.open_stream(row["table"]).read_all()
    return EmbedChunk(path, table, row["problem"])


@contextmanager
def _connect(cluster: RayCluster) -> Iterator[Any]:
    """Yield Ray, connected; a connection that this opened is closed, and a local cluster ended.

    Raises:
        UsageError: Ray is not installed, or no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # of a local cluster; by default its workers yield to everything
    try:
        import ray
        import ray.data
    except ImportError:
        raise UsageError("--ray needs Ray; pip install 'carrara[scale]'") from None
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"address": cluster.address}
    if cluster.address == LOCAL:
        # One more than the actors need, for Ray Data's own tasks.
        cpus = max((cluster.workers or 0) * cluster.cpus, os.cpu_count() or 1) + 1
        options |= {"num_cpus": cpus, "object_store_memory": LOCAL_STORE_BYTES, "include_dashboard": False}
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, RuntimeError, ValueError) as problem:
        raise UsageError(f"--ray {cluster.address}: no cluster answers ({_reason(problem)})") from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield ray
    finally:
        ray.shutdown()


def _reason(problem: BaseException) -> str:
    """Return one line; the error inside of Ray's own, which holds a traceback, where there is one."""
    cause = getattr(problem, "cause", None)
    if isinstance(cause, CarraraError):
        return str(cause)
    lines = [line.strip() for line in str(cause or problem).splitlines() if line.strip()]
    return (lines[-1] if lines else type(problem).__name__)[:300]
