"""The HTTP interface of a leaderboard that takes submissions, and the pages beside it.

Who may write says so with a bearer token in every request. There are no cookies and no sessions, and the page that
submits records sends them by a script, so that another site cannot make a browser submit anything (CSRF): browsers
never add the header by themselves. Pages load nothing from elsewhere and run no inline scripts
(Content-Security-Policy), and names from records become text nodes.
"""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from sqlalchemy import delete, func, select
from sqlalchemy.exc import DBAPIError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders, UploadFile
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from carrara.bench.verify_record import MAX_PREDICTIONS_BYTES, MAX_RECORD_BYTES
from carrara.core import __version__
from carrara.core.printable import one_line
from carrara.web.leaderboard.accept import Acceptance, accept_record
from carrara.web.leaderboard.database import (
    AccessToken,
    AuditEntry,
    Database,
    StoredRecord,
    count_audit,
    hash_token,
    write_audit,
)
from carrara.web.leaderboard.pages import SitePages

MAX_BODY_BYTES = MAX_RECORD_BYTES + MAX_PREDICTIONS_BYTES + 2**16
MAX_REFUSED_TOKENS = 20  # a minute and address
MINUTE = 60.0
VERIFIED_AT_ONCE = 2
MAX_ID = 2**31 - 1
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["record", "predictions"],
                    "properties": {
                        "record": {"type": "string", "format": "binary", "description": "The record's JSON file."},
                        "predictions": {"type": "string", "format": "binary", "description": "The Parquet file."},
                    },
                    "additionalProperties": False,
                }
            }
        },
    }
}


class FindingBody(BaseModel):
    """What is wrong with a record: which check, and a line."""

    check: str
    problem: str


class ProblemBody(BaseModel):
    """Why a request was refused; `findings` for a record that is not right."""

    detail: str
    findings: list[FindingBody] = []


class AcceptedBody(BaseModel):
    """A record that was accepted."""

    id: int
    subject: str


class RecordLine(BaseModel):
    """A record of the leaderboard."""

    id: int
    system: str
    weights_sha256: str
    protocol: str
    task: str
    task_version: int
    submitted: str
    submitted_by: str


class AuditLine(BaseModel):
    """A line of the audit log."""

    time: str
    actor: str
    address: str
    action: str
    subject: str
    outcome: str
    detail: str


class HealthBody(BaseModel):
    """The state of the service."""

    status: str
    version: str
    records: int


def problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Return the responses that a route documents for these status codes."""
    return {code: {"model": ProblemBody} for code in (*codes, 503)}


def create_app(database: Database, pages: SitePages, per_minute: int = 60) -> FastAPI:
    """Return the application.

    Args:
        database: of records, tokens and the audit log.
        pages: the site of the records; started and stopped with the application.
        per_minute: how many records a token may submit in a minute.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        pages.start()
        yield
        await run_in_threadpool(pages.stop)
        database.close()

    app = FastAPI(
        title="Carrara leaderboard",
        version=__version__,
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.database, app.state.pages, app.state.per_minute = database, pages, per_minute
    app.state.verifying = asyncio.Semaphore(VERIFIED_AT_ONCE)
    app.add_middleware(SecurityHeaders)
    app.add_exception_handler(DBAPIError, _report_database)
    app.add_exception_handler(RequestValidationError, _report_invalid)
    app.add_exception_handler(ClientDisconnect, _report_cut_off)
    app.add_exception_handler(StarletteHTTPException, _report_http)
    _add_record_routes(app)
    _add_other_routes(app)
    return app


bearer = HTTPBearer(auto_error=False, description="A token of `carrara leaderboard token add`.")


def require_token(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> AccessToken:
    """Return the token of a request.

    Raises:
        HTTPException: there is none, it is wrong or revoked (401), or too many of this address were wrong (429).
    """
    address = _address(request)
    with request.app.state.database.session() as session:
        token = None
        if credentials is not None:
            query = select(AccessToken).where(AccessToken.sha256 == hash_token(credentials.credentials))
            token = session.scalar(query)
        if token is not None and token.revoked is None:
            return token
        refused = count_audit(session, MINUTE, address=address, action="token", outcome="refused")
        if refused >= MAX_REFUSED_TOKENS:
            status, detail = 429, "too many wrong tokens from this address; wait a minute"
        else:
            status = 401
            detail = "no token; send it as Authorization: Bearer TOKEN"
            if token is not None:
                detail = f"the token {token.name!r} was revoked on {token.revoked[:10] if token.revoked else ''}"
            elif credentials is not None:
                detail = "the token is not one of this leaderboard; ask its owner for one"
            actor = token.name if token is not None else ""
            write_audit(session, actor, address, "token", request.url.path, "refused", detail)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {"Retry-After": "60"}
    raise HTTPException(status, detail, headers=headers)


def require_admin(request: Request, token: Annotated[AccessToken, Depends(require_token)]) -> AccessToken:
    """Return the token of a request if it may administer.

    Raises:
        HTTPException: it may only submit (403).
    """
    if token.role != "admin":
        with request.app.state.database.session() as session:
            write_audit(session, token.name, _address(request), "token", request.url.path, "refused", "no admin")
        raise HTTPException(403, f"the token {token.name!r} may submit records only; this needs the role admin")
    return token


Submitter = Annotated[AccessToken, Depends(require_token)]
Admin = Annotated[AccessToken, Depends(require_admin)]
RecordId = Annotated[int, Path(ge=1, le=MAX_ID)]
Limit = Annotated[int, Query(ge=1, le=1000)]
Offset = Annotated[int, Query(ge=0, le=MAX_ID)]


def _add_record_routes(app: FastAPI) -> None:
    @app.post(
        "/api/records",
        status_code=201,
        response_model=AcceptedBody,
        responses=problems(400, 401, 409, 411, 413, 415, 422, 429),
        openapi_extra=UPLOAD,
    )
    async def submit_record(request: Request, token: Submitter) -> Any:
        """Submit a record with its predictions; it is verified as `carrara verify-record` does."""
        await run_in_threadpool(_check_rate, request, token)
        record, predictions = await _read_upload(request)
        database = request.app.state.database
        async with request.app.state.verifying:
            acceptance: Acceptance = await run_in_threadpool(accept_record, database, record, predictions, token.id)
        await run_in_threadpool(_write_acceptance, request, token, acceptance)
        if acceptance.outcome == "duplicate":
            return _problem(409, f"the record is there already, as number {acceptance.record_id}")
        if acceptance.outcome == "refused":
            return _problem(422, str(acceptance.findings[0]), [vars(each) for each in acceptance.findings])
        request.app.state.pages.request_update()
        return AcceptedBody(id=acceptance.record_id or 0, subject=acceptance.subject)

    @app.get("/api/records", response_model=list[RecordLine], responses=problems(422))
    def list_records(request: Request, limit: Limit = 100, offset: Offset = 0) -> Any:
        """Return the accepted records, the oldest first."""
        columns = [getattr(StoredRecord, name) for name in RecordLine.model_fields if name != "submitted_by"]
        query = select(*columns, AccessToken.name.label("submitted_by")).join(AccessToken).order_by(StoredRecord.id)
        with request.app.state.database.session() as session:
            return [dict(row) for row in session.execute(query.limit(limit).offset(offset)).mappings()]

    @app.get(
        "/api/records/{record_id}",
        response_class=Response,
        responses=problems(404, 422) | {200: {"content": {"application/json": {}}}},
    )
    def read_record_file(request: Request, record_id: RecordId) -> Response:
        """Return a record as it was submitted."""
        with request.app.state.database.session() as session:
            stored = session.scalar(select(StoredRecord.record).where(StoredRecord.id == record_id))
        if stored is None:
            raise HTTPException(404, f"there is no record {record_id}")
        return Response(stored, media_type="application/json")

    @app.delete("/api/records/{record_id}", status_code=204, responses=problems(401, 403, 404, 422, 429))
    def delete_record(request: Request, record_id: RecordId, token: Admin) -> None:
        """Delete a record, for example so that a corrected one can be submitted."""
        with request.app.state.database.session() as session:
            done = session.execute(delete(StoredRecord).where(StoredRecord.id == record_id)).rowcount
            outcome = "done" if done else "absent"
            write_audit(session, token.name, _address(request), "delete", str(record_id), outcome)
        if not done:
            raise HTTPException(404, f"there is no record {record_id}")
        request.app.state.pages.request_update()


def _add_other_routes(app: FastAPI) -> None:
    @app.get("/api/audit", response_model=list[AuditLine], responses=problems(401, 403, 422, 429))
    def list_audit(request: Request, token: Admin, limit: Limit = 100, offset: Offset = 0) -> Any:
        """Return the audit log, the newest line first."""
        query = select(AuditEntry).order_by(AuditEntry.id.desc()).limit(limit).offset(offset)
        with request.app.state.database.session() as session:
            return [{name: getattr(each, name) for name in AuditLine.model_fields} for each in session.scalars(query)]

    @app.get("/api/health", response_model=HealthBody, responses=problems())
    def check_health(request: Request) -> Any:
        """Return whether the service and its database answer."""
        with request.app.state.database.session() as session:
            count = session.scalar(select(func.count()).select_from(StoredRecord)) or 0
        return HealthBody(status="ok", version=__version__, records=count)

    @app.get("/{path:path}", include_in_schema=False)
    def read_page(request: Request, path: str) -> Response:
        """Return a file of the site."""
        file = request.app.state.pages.find(path)
        if file is None and not path:
            return Response("The pages are being written; reload in a few seconds.", 503, {"Retry-After": "5"})
        if file is None:
            raise HTTPException(404, "there is no such page")
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        return FileResponse(file, media_type=kind, headers={"Cache-Control": "no-cache"})


def _check_rate(request: Request, token: AccessToken) -> None:
    with request.app.state.database.session() as session:
        submitted = count_audit(session, MINUTE, actor=token.name, action="submit")
        if submitted >= request.app.state.per_minute:
            raise HTTPException(
                429,
                f"the token {token.name!r} submitted {submitted} records in the last minute; wait a minute",
                headers={"Retry-After": "60"},
            )


async def _read_upload(request: Request) -> tuple[bytes, bytes]:
    """Return record and predictions of a multipart body.

    Raises:
        HTTPException: it is too large (413), not multipart (415), or has not exactly the two files (422).
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
        raise HTTPException(415, "send multipart/form-data with the files record and predictions")
    try:
        length = int(request.headers.get("content-length", ""))
    except ValueError:
        raise HTTPException(411, "send the header Content-Length") from None
    if length > MAX_BODY_BYTES:
        raise HTTPException(413, f"{length:,} bytes; at most {MAX_BODY_BYTES:,}")
    contents = {}
    async with request.form(max_files=2, max_fields=0) as form:
        for name, limit in {"record": MAX_RECORD_BYTES, "predictions": MAX_PREDICTIONS_BYTES}.items():
            files = form.getlist(name)
            if len(files) != 1 or not isinstance(files[0], UploadFile):
                raise HTTPException(422, f"{len(files)} files called {name}; send one, and one called predictions")
            contents[name] = await files[0].read(limit + 1)
            if len(contents[name]) > limit:
                raise HTTPException(413, f"{name} has more than {limit:,} bytes")
    return contents["record"], contents["predictions"]


def _write_acceptance(request: Request, token: AccessToken, acceptance: Acceptance) -> None:
    detail = "; ".join(map(str, acceptance.findings)) or f"record {acceptance.record_id}"
    with request.app.state.database.session() as session:
        subject, outcome = acceptance.subject, acceptance.outcome
        write_audit(session, token.name, _address(request), "submit", subject, outcome, detail)


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _problem(
    status: int, detail: str, findings: list[Any] | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    return JSONResponse({"detail": one_line(detail), "findings": findings or []}, status, headers)


class SecurityHeaders:
    """ASGI middleware that adds `HEADERS` to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, send_with_headers)


def _report_database(request: Request, problem: Exception) -> Response:
    return _problem(503, "the database does not answer; try again in a few seconds", headers={"Retry-After": "5"})


def _report_invalid(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, RequestValidationError)
    first = problem.errors()[0]
    where = ".".join(map(str, first["loc"][1:])) or "body"
    return _problem(422, f"{where}: {first['msg']}")


def _report_cut_off(request: Request, problem: Exception) -> Response:
    return _problem(400, "the upload was cut off; send it again")


def _report_http(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, StarletteHTTPException)
    return _problem(problem.status_code, str(problem.detail), headers=problem.headers)
