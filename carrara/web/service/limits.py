"""An ASGI layer around the service: limits on uploads before they are read, and counts of requests for Prometheus."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

RETRY_SECONDS = 1
MAX_DISCARDED = 64 * 2**20  # bytes of a refused upload


class ServiceMetrics:
    """What /metrics shows, in a registry of its own."""

    def __init__(self, queue_length: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "carrara_requests", "Requests by path and status.", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "carrara_request_seconds", "Time from request to answer.", ["path"], registry=self.registry
        )
        self.batch = Histogram(
            "carrara_batch_recordings",
            "Recordings of a batch.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self.registry,
        )
        self.audio = Counter("carrara_audio_seconds", "Seconds of audio in answers.", registry=self.registry)
        Gauge("carrara_queue_recordings", "Recordings that wait.", registry=self.registry).set_function(queue_length)


class UploadLimits:
    """Refuses an upload that is too large, too slow, or comes while the queue is full, and counts requests.

    Args:
        app: The application.
        metrics: Where requests are counted.
        is_full: Whether the queue takes no more.
        max_bytes: Of a request's body.
        timeout: Seconds without any part of an upload after which it is given up.
        paths: Whose requests are counted by name; others count as "other", so that strangers add no series.
    """

    def __init__(
        self,
        app: Any,
        metrics: ServiceMetrics,
        is_full: Callable[[], bool],
        max_bytes: int,
        timeout: float,
        paths: frozenset[str],
    ) -> None:
        self.app, self.metrics, self.is_full = app, metrics, is_full
        self.max_bytes, self.timeout, self.paths = max_bytes, timeout, paths

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self.paths else "other"
        begin, status, received = time.perf_counter(), 500, 0

        async def limited_receive() -> Any:
            nonlocal received
            try:
                message = await asyncio.wait_for(receive(), self.timeout)
            except TimeoutError:
                raise HTTPException(408, f"nothing of the upload came in {self.timeout:g} s") from None
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                await self._discard(receive, message)
                raise HTTPException(413, too_large(self.max_bytes))
            return message

        async def counted_send(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if (refusal := self._refuse(scope)) is not None:
                await self._discard(receive)
                await refusal(scope, receive, counted_send)
            else:
                await self.app(scope, limited_receive if scope["method"] == "POST" else receive, counted_send)
        finally:
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - begin)

    async def _discard(self, receive: Any, message: Any = None) -> None:
        """Read the rest of an upload, within limits: many clients see an answer only after they have sent all."""
        discarded = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(self.timeout):
                while discarded <= MAX_DISCARDED and (message is None or message.get("more_body")):
                    message = await receive()
                    discarded += len(message.get("body", b""))

    def _refuse(self, scope: Any) -> JSONResponse | None:
        """Return the answer to an upload that is refused by its headers alone."""
        if scope["method"] != "POST":
            return None
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.max_bytes:
            return JSONResponse({"error": too_large(self.max_bytes)}, 413, {"connection": "close"})
        if self.is_full():
            return busy()
        return None


def too_large(max_bytes: int) -> str:
    """Return the message about an upload beyond the limit."""
    return f"the upload is larger than {max_bytes / 2**20:g} MiB; send a shorter or compressed recording"


def busy() -> JSONResponse:
    """Return the answer while the queue is full."""
    message = f"the queue is full; try again in {RETRY_SECONDS} s"
    return JSONResponse({"error": message}, 503, {"retry-after": str(RETRY_SECONDS)})
