"""The HTTP service of an encoder: POST /embed, /tag and /find, GET /health and /metrics, and OpenSubsonic's calls.

An upload is written to a file, looked at, and put into the queue; the answer waits for the encoding thread. Every
error is one line of JSON, `{"error": "…"}`.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import shutil
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import FastAPI, File, HTTPException, Query, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException as StarletteHTTPException

from carrara.audio.decode import iter_audio, read_info
from carrara.audio.file_warnings import collect_warnings
from carrara.core import __version__
from carrara.core.errors import AudioError, CarraraError
from carrara.core.io import draft_folder
from carrara.core.printable import one_line
from carrara.core.settings import Settings, parse_settings
from carrara.encoders._base import Encoder
from carrara.features.embed import layer_names
from carrara.features.embed_config import EmbedConfig
from carrara.features.embedding_table import EmbeddedRows
from carrara.features.search import Neighbour, clip_config, find_nearest, unit_query
from carrara.features.song_fields import SongFields
from carrara.features.tags import TagEncoder, TrackTags
from carrara.web.service.encode_queue import EncodeJob, EncodeQueue
from carrara.web.service.limits import ServiceMetrics, UploadLimits, busy
from carrara.web.service.subsonic import SonicSimilarity, add_subsonic_calls

if TYPE_CHECKING:
    import pyarrow

LOGGER = logging.getLogger(__name__)
EMBED, TAG = "embed", "tag"
PATHS = frozenset({"/embed", "/tag", "/find", "/health", "/metrics", "/openapi.json", "/docs"})
Upload = Annotated[UploadFile, File(description="An audio file of any format.")]
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/json": {"example": {"error": text}}}}
    for status, text in {
        400: "The request is cut off or no form.",
        404: "Nothing is at this address.",
        408: "The upload stopped.",
        413: "The upload is too large.",
        422: "The recording cannot be used.",
        503: "The queue is full.",
        504: "The encoding took too long.",
    }.items()
}


class ServiceLimits(Settings):
    """What a request may cost.

    Attributes:
        max_bytes: Of an upload.
        max_seconds: Of a recording.
        timeout: Seconds that a request may wait for its result, and an upload for its next part.
        max_waiting: Recordings that may wait in the queue.
        max_batch: Most recordings of a batch.
        batch_wait: Seconds that a batch waits for more recordings.
    """

    max_bytes: int = 64 * 2**20
    max_seconds: float = 1200.0
    timeout: float = 60.0
    max_waiting: int = 64
    max_batch: int = 16
    batch_wait: float = 0.02


class EncodingService:
    """An encoder with its queue, and the library in which recordings are looked for.

    Args:
        encoder: The encoder, on its device.
        library: A table or an index that the same encoder made; None for a service without /find.
        limits: What a request may cost.
        device: On which the encoder runs.
    """

    def __init__(
        self,
        encoder: Encoder,
        library: EmbeddedRows | None = None,
        limits: ServiceLimits | None = None,
        device: str = "cpu",
    ) -> None:
        self.encoder, self.library, self.limits = encoder, library, limits or ServiceLimits()
        encoders = {EMBED: encoder}
        if encoder.tag_names:
            encoders[TAG] = TagEncoder(encoder)
        self.library_lock = threading.Lock()  # Parquet readers are not to be used by several threads at once
        self.metrics = ServiceMetrics(lambda: len(self.queue))
        self.queue = EncodeQueue(
            encoders,
            device,
            self.limits.max_waiting,
            self.limits.max_batch,
            self.limits.batch_wait,
            self.metrics.batch.observe,
        )

    async def encode(self, upload: UploadFile, kind: str, config: EmbedConfig) -> tuple[pyarrow.Table, list[str]]:
        """Return the rows of an upload, as `carrara.embed` does, and what that would warn of.

        Raises:
            HTTPException: The recording is too long, the queue is full, or the time is over.
            AudioError: It cannot be decoded.
        """
        name = one_line(Path(upload.filename or "upload").name) or "upload"
        with draft_folder() as folder, collect_warnings(path := folder / f"recording{Path(name).suffix[:16]}") as texts:
            await run_in_threadpool(_write_upload, upload, path)
            seconds = await run_in_threadpool(measure_seconds, path, name, self.limits.max_seconds)
            if seconds > self.limits.max_seconds:
                raise HTTPException(422, f"{name}: longer than {self.limits.max_seconds:g} s; send a shorter excerpt")
            try:
                future = asyncio.wrap_future(self.queue.submit(EncodeJob(path, name, kind, config)))
            except queue.Full:
                raise HTTPException(503) from None
            try:
                table = await asyncio.wait_for(future, self.limits.timeout)
            except TimeoutError:
                raise HTTPException(504, f"{name}: no result within {self.limits.timeout:g} s; try again") from None
            except CarraraError:
                raise
            except Exception as problem:
                LOGGER.exception("encoding failed")
                raise HTTPException(500, one_line(f"{type(problem).__name__}: {problem}")) from problem
            self.metrics.audio.inc(seconds)
            return table, [f"{name}: {text}" for text in texts]


def measure_seconds(path: Path, name: str, limit: float) -> float:
    """Return a recording's length in seconds, or a number above `limit` where it is longer; its file is not trusted.

    Raises:
        AudioError: It cannot be decoded.
    """
    try:
        info = read_info(path)
        if info.duration_seconds is not None and (info.exact or info.duration_seconds > 2 * limit):
            return info.duration_seconds
        seconds = 0.0
        for block_T in iter_audio(path, info.sample_rate):
            seconds += len(block_T) / info.sample_rate
            if seconds > limit:
                break
        return seconds
    except AudioError as problem:
        raise AudioError(str(problem).replace(str(path), name)) from None


def create_service(service: EncodingService, song_ids: Mapping[str, str] | None = None) -> Any:
    """Return the ASGI application of a service.

    Args:
        service: The encoder and what belongs to it; its queue ends with the application.
        song_ids: Id of each path of the library, for OpenSubsonic's calls. None means that a path is its id.
    """
    card = service.encoder.card

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.queue.close)

    app = FastAPI(title=f"Carrara: {card.name}", version=__version__, lifespan=lifespan, redoc_url=None)
    _add_error_handlers(app)

    @app.post("/embed", responses=ERRORS)
    async def embed(
        file: Upload,
        layer: Annotated[str, Query(description="0 to L, last, mean, cnn, or all.")] = "mean",
        per: Annotated[Literal["clip", "window"], Query(description="One embedding per recording or window.")] = "clip",
    ) -> dict[str, Any]:
        """Return the embeddings of a recording, as `carrara embed` computes them."""
        layer_names(service.encoder, layer)
        config = parse_settings(EmbedConfig, {"layer": layer, "per": per}, "embed")
        table, warnings = await service.encode(file, EMBED, config)
        return {"encoder": card.name, "embeddings": table.drop_columns(["path"]).to_pylist(), "warnings": warnings}

    @app.post("/tag", responses=ERRORS)
    async def tag(file: Upload, top: Annotated[int, Query(ge=1, le=1000)] = 5) -> dict[str, Any]:
        """Return the most probable tags of a recording and of its windows, as `carrara tag` does."""
        if TAG not in service.queue.encoders:
            raise HTTPException(404, f"{card.name} predicts no tags; serve a MAEST, a MusiCNN or an EfficientNet")
        seconds = service.queue.encoders[TAG].card.window_seconds
        config = EmbedConfig(per="window", layer="0", window_seconds=seconds, hop_seconds=seconds)
        table, warnings = await service.encode(file, TAG, config)
        probability_WK = table["embedding"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)
        start_W, duration_W = table["start"].to_numpy(), table["duration"].to_numpy()
        summary = TrackTags("", start_W, duration_W, probability_WK).summary(service.encoder.tag_names, top)
        del summary["path"]
        return {"encoder": card.name, **summary, "warnings": warnings}

    @app.post("/find", responses=ERRORS)
    async def find(
        file: Upload,
        count: Annotated[int, Query(ge=1, le=1000)] = 10,
        passages: Annotated[bool, Query(description="List windows instead of the best of each recording.")] = False,
    ) -> dict[str, Any]:
        """Return the recordings of the library that are most similar to an upload, as `carrara find` does."""
        library = service.library
        if library is None:
            raise HTTPException(404, "there is no library; start the service with --index LIBRARY")
        table, warnings = await service.encode(file, EMBED, clip_config(library))
        query = unit_query(library, table["embedding"][0].values.to_numpy())

        def search() -> list[Neighbour]:
            with service.library_lock:
                return find_nearest([query], library, count, SongFields([]), passages)

        results = await run_in_threadpool(search)
        return {"results": [vars(result) for result in results], "warnings": warnings}

    @app.get("/health")
    async def health() -> Response:
        """Return whether the encoding thread runs, and how many recordings wait."""
        facts = {"encoder": card.name, "waiting": len(service.queue), "version": __version__}
        if service.queue.is_alive:
            return JSONResponse({"status": "ok", **facts})
        return JSONResponse({"status": "the encoding thread has ended; restart the service", **facts}, 500)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Return counts for Prometheus."""
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    if service.library is not None:
        add_subsonic_calls(app, SonicSimilarity(service.library, song_ids, service.library_lock))
    limits = service.limits
    return UploadLimits(app, service.metrics, lambda: service.queue.is_full, limits.max_bytes, limits.timeout, PATHS)


def _add_error_handlers(app: FastAPI) -> None:
    """Answer every error with one line of JSON."""

    @app.exception_handler(CarraraError)
    async def refused(request: Request, problem: CarraraError) -> Response:
        return JSONResponse({"error": one_line(str(problem))}, 422)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, problem: RequestValidationError) -> Response:
        first = problem.errors()[0]
        return JSONResponse({"error": one_line(f"{first['loc'][-1]}: {first['msg']}")}, 422)

    @app.exception_handler(StarletteHTTPException)
    async def failed(request: Request, problem: StarletteHTTPException) -> Response:
        if problem.status_code == 503:
            return busy()
        return JSONResponse({"error": problem.detail}, problem.status_code, problem.headers)

    @app.exception_handler(Exception)
    async def broken(request: Request, problem: Exception) -> Response:
        return JSONResponse({"error": one_line(f"{type(problem).__name__}: {problem}")}, 500)


def _write_upload(upload: UploadFile, path: Path) -> None:
    with open(path, "wb") as file:
        shutil.copyfileobj(upload.file, file)
