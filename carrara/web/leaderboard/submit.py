"""Submit records to a leaderboard: each is verified here first, then uploaded with its predictions."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from carrara.bench.verify_record import verify_record_file
from carrara.core.errors import UsageError
from carrara.core.printable import one_line

TRIES = 4
WAIT_SECONDS = 2.0
MAX_WAIT_SECONDS = 90.0
TIMEOUT_SECONDS = (10, 300)  # to connect, and for the server to verify
LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class SubmissionResult:
    """What became of a record: accepted, duplicate (it is there already) or refused, and a line that says why."""

    path: Path
    outcome: Literal["accepted", "duplicate", "refused"]
    detail: str


def submit_records(
    paths: Sequence[Path], url: str, token: str, wait_seconds: float = WAIT_SECONDS
) -> Iterator[SubmissionResult]:
    """Yield what became of each record; a second run submits what is not there yet.

    Args:
        paths: of the records; the predictions are beside them.
        url: of the leaderboard.
        token: that its owner gave.
        wait_seconds: before a second try where the server is busy or does not answer; doubled before each further one.

    Raises:
        UsageError: the address is none, the token is refused, or the server does not answer.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"--url {url}: write the leaderboard's address, such as https://leaderboard.example.org")
    if parts.scheme == "http" and parts.hostname not in LOCAL:
        raise UsageError(f"--url {url}: the token would be sent unencrypted; write https://")
    if not token.isascii() or not token.isprintable() or not token.strip():
        raise UsageError("--token: it is no token; give the line that `carrara leaderboard token add` printed")
    for path in paths:
        if findings := verify_record_file(path):
            yield SubmissionResult(path, "refused", "; ".join(map(str, findings)))
            continue
        yield _upload(path, url.rstrip("/") + "/api/records", token.strip(), wait_seconds)


def _upload(path: Path, address: str, token: str, wait_seconds: float) -> SubmissionResult:
    import requests

    files = {
        "record": (path.name, path.read_bytes(), "application/json"),
        "predictions": (
            "predictions.parquet",
            path.with_suffix(".predictions.parquet").read_bytes(),
            "application/vnd.apache.parquet",
        ),
    }
    headers = {"Authorization": f"Bearer {token}"}
    reason = ""
    for number in range(TRIES):
        wait = wait_seconds * 2**number
        try:
            # A redirect would send the token elsewhere.
            answer = requests.post(
                address, files=files, headers=headers, timeout=TIMEOUT_SECONDS, allow_redirects=False
            )
        except requests.RequestException as problem:
            reason = one_line(str(problem).partition("\n")[0])[:200]
        else:
            detail = _detail(answer)
            if answer.status_code == 201:
                return SubmissionResult(path, "accepted", detail)
            if answer.status_code == 409:
                return SubmissionResult(path, "duplicate", detail)
            if answer.status_code in (401, 403):
                raise UsageError(f"--token: refused by {address}: {detail}")
            if answer.status_code in (400, 413, 422):
                return SubmissionResult(path, "refused", detail)
            if answer.status_code not in (429, 500, 502, 503, 504):
                raise UsageError(f"--url {address}: answers {answer.status_code} ({detail}); is it a leaderboard?")
            reason = detail
            wait = max(wait, _retry_after(answer) if wait_seconds else 0.0)
        if number + 1 < TRIES:
            time.sleep(min(wait, MAX_WAIT_SECONDS))
    raise UsageError(f"--url {address}: no success in {TRIES} tries ({reason}); run the same command again to continue")


def _retry_after(answer: Any) -> float:
    value = answer.headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else 0.0


def _detail(answer: Any) -> str:
    try:
        body = answer.json()
    except ValueError:
        return one_line(answer.text[:200])
    if not isinstance(body, dict):
        return ""
    findings = [f"{each.get('check')}: {each.get('problem')}" for each in body.get("findings", [])]
    subject = f"{body.get('subject')}, record {body.get('id')}"
    return one_line("; ".join(findings) or str(body.get("detail", subject)))[:1000]
