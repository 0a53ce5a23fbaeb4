"""The explorer's pages and calls. Points travel as binary arrays; lists are short; audio is served with ranges."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, File, HTTPException, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

from carrara.audio.file_warnings import collect_warnings
from carrara.core.errors import AudioError, CarraraError
from carrara.core.io import draft_folder
from carrara.core.printable import one_line
from carrara.features.embedding_map import Method
from carrara.web.explorer.collection import Collection

HERE = Path(__file__).parent
STYLE = HERE.parents[1] / "bench" / "site" / "assets" / "site.css"
# regl compiles its draw calls with Function, regl-scatterplot builds its index in a worker, wavesurfer sets styles.
CSP = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'; worker-src blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; connect-src 'self' blob:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
MAX_LABELS = 100_000
Count = Annotated[int, Query(ge=1, le=200)]


class ProbeLabels(BaseModel):
    """Labels that a person gave: a label by row of the collection."""

    layer: str
    labels: dict[int, Annotated[str, Field(min_length=1, max_length=200)]] = Field(max_length=MAX_LABELS)


class QueryEncoder:
    """Embeds what is dropped on the page or typed, with the encoder that made a table; loaded when first needed.

    Args:
        embed_file: Returns the vector of an audio file in a layer.
        embed_text: Returns the vector of a text in the layer "joint"; None where the encoder has no text tower.
    """

    def __init__(
        self, embed_file: Callable[[Path, str], np.ndarray], embed_text: Callable[[str], np.ndarray] | None = None
    ) -> None:
        self.embed_file, self.embed_text = embed_file, embed_text
        self.lock = threading.Lock()


def create_explorer(
    collection: Collection, title: str, queries: QueryEncoder | None = None, hosts: list[str] | None = None
) -> FastAPI:
    """Return the ASGI application of the explorer.

    Args:
        collection: The recordings.
        title: What the page is called.
        queries: Embeds files and texts; None leaves that search out.
        hosts: Names under which the page may be opened. None allows all.
    """
    app = FastAPI(title="carrara explore", docs_url=None, redoc_url=None, openapi_url=None)
    app.mount("/static", StaticFiles(directory=HERE / "pages"))
    app.mount("/vendor", StaticFiles(directory=HERE / "vendor"))
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)

    _add_guards(app)
    _add_map_calls(app, collection, title, queries)
    _add_search_calls(app, collection, queries)
    _add_label_calls(app, collection)
    return app


def _add_guards(app: FastAPI) -> None:
    """Refuse other sites, add the headers of every answer, and answer errors with one line of JSON."""

    @app.middleware("http")
    async def guarded(request: Request, call_next: Callable[[Request], Any]) -> Any:
        if request.method == "POST" and request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return JSONResponse({"error": "refused: the request comes from another site"}, 403)
        response = await call_next(request)
        response.headers["content-security-policy"] = CSP
        response.headers["x-content-type-options"] = "nosniff"
        response.headers["referrer-policy"] = "no-referrer"
        return response

    @app.exception_handler(CarraraError)
    async def refused(request: Request, problem: CarraraError) -> Response:
        return JSONResponse({"error": one_line(str(problem))}, 422)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, problem: RequestValidationError) -> Response:
        return JSONResponse({"error": one_line(problem.errors()[0]["msg"])}, 422)

    @app.exception_handler(HTTPException)
    async def failed(request: Request, problem: HTTPException) -> Response:
        return JSONResponse({"error": problem.detail}, problem.status_code)


def check_request(collection: Collection, layer: str | None, *rows: int) -> None:
    """Raise an error unless the collection has a layer and rows.

    Raises:
        HTTPException: It has not.
    """
    if layer is not None and layer not in collection.points.layers:
        raise HTTPException(404, f"no layer {layer}")
    if not all(0 <= row < len(collection.points.names) for row in rows):
        raise HTTPException(404, "no such recording")


def _add_map_calls(app: FastAPI, collection: Collection, title: str, queries: QueryEncoder | None) -> None:
    """Add the page, the points with their labels, and the sound."""
    points = collection.points

    @app.get("/")
    def page() -> Response:
        return FileResponse(HERE / "pages" / "index.html")

    @app.get("/site.css")
    def style() -> Response:
        return FileResponse(STYLE)

    @app.get("/api/info")
    def info() -> dict[str, Any]:
        labels = [collection.describe_label(name) for name in points.labels]
        return {
            "title": title,
            "count": len(points.names),
            "layers": list(points.layers),
            "labels": [each for each in labels if each["numeric"] or each["values"]],
            "files": queries is not None,
            "text": queries is not None and queries.embed_text is not None and "joint" in points.layers,
        }

    @app.get("/api/points")
    def positions(layer: str, method: Method = "pca") -> Response:
        check_request(collection, layer)
        return Response(collection.positions(layer, method).tobytes(), media_type="application/octet-stream")

    @app.get("/api/label")
    def label(name: str) -> Response:
        if name not in points.labels:
            raise HTTPException(404, f"no label {name}")
        return Response(collection.label_codes(name).tobytes(), media_type="application/octet-stream")

    @app.get("/api/recording/{row}")
    def recording(row: int) -> dict[str, Any]:
        check_request(collection, None, row)
        return {**collection.describe(row), "audio": collection.audio_file(row) is not None}

    @app.get("/audio/{row}")
    def audio(row: int) -> Response:
        check_request(collection, None, row)
        file = collection.audio_file(row)
        if file is None:
            raise HTTPException(404, "the audio has moved; start again with --audio FOLDER")
        return FileResponse(file)


def _add_search_calls(app: FastAPI, collection: Collection, queries: QueryEncoder | None) -> None:
    """Add neighbours, walks, and the search by a file or a text."""

    @app.get("/api/neighbours")
    def neighbours(row: int, layer: str, count: Count = 12) -> list[dict[str, Any]]:
        check_request(collection, layer, row)
        return collection.neighbours(layer, collection.unit_vectors(layer)[row], count, [row])

    @app.get("/api/path")
    def path(first: int, last: int, layer: str, count: Annotated[int, Query(ge=2, le=50)] = 8) -> list[dict[str, Any]]:
        check_request(collection, layer, first, last)
        return collection.walk(layer, first, last, count)

    @app.post("/api/search")
    def search(file: Annotated[UploadFile, File()], layer: str, count: Count = 12) -> dict[str, Any]:
        check_request(collection, layer)
        if queries is None:
            raise HTTPException(404, "a feature store has no encoder; explore a table of `carrara embed`")
        with draft_folder() as folder, queries.lock:
            dropped = folder / f"dropped{Path(file.filename or '').suffix[:16]}"
            with open(dropped, "wb") as target:
                shutil.copyfileobj(file.file, target)
            try:
                with collect_warnings(dropped) as warnings:
                    vector_D = queries.embed_file(dropped, layer)
            except AudioError as problem:
                raise AudioError(str(problem).replace(f"{dropped}: ", "")) from None
        return {"recordings": collection.neighbours(layer, vector_D, count), "warnings": warnings}

    @app.get("/api/text")
    def text(text: Annotated[str, Query(min_length=1, max_length=1000)], count: Count = 12) -> list[dict[str, Any]]:
        check_request(collection, "joint")
        if queries is None or queries.embed_text is None:
            raise HTTPException(404, "the encoder has no text tower")
        with queries.lock:
            vector_D = queries.embed_text(text)
        return collection.neighbours("joint", vector_D, count)


def _add_label_calls(app: FastAPI, collection: Collection) -> None:
    """Add the probe of given labels and the file of them."""

    @app.post("/api/probe")
    def probe(given: ProbeLabels) -> dict[str, Any]:
        check_request(collection, given.layer, *given.labels)
        return collection.train_probe(given.layer, given.labels)

    @app.post("/api/labels.csv")
    def labels_csv(given: ProbeLabels) -> Response:
        check_request(collection, given.layer, *given.labels)
        return Response(collection.labels_csv(given.labels), media_type="text/csv; charset=utf-8")
