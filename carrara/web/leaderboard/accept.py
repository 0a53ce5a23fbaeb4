"""Accept a submitted record: verify it with its predictions, refuse duplicates and other truths, and store it."""

from __future__ import annotations

import hashlib
import multiprocessing
import sys
import tempfile
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from carrara.bench.verify_record import Finding, truths_identity, verify_record_file
from carrara.core.errors import StoreError
from carrara.core.record import Record, read_record
from carrara.web.leaderboard.database import Database, StoredRecord, now

VERIFY_SECONDS = 180.0
VERIFY_BYTES = 4 * 2**30  # of private memory


@dataclass(frozen=True)
class Acceptance:
    """What became of a submission: the id of the stored record, of its duplicate, or what is wrong with it.

    Attributes:
        outcome: accepted, duplicate or refused.
        subject: system, protocol and task.
        record_id: of the stored record; None where it was refused.
        findings: why it was refused.
    """

    outcome: str
    subject: str
    record_id: int | None = None
    findings: tuple[Finding, ...] = ()


def accept_record(database: Database, record: bytes, predictions: bytes, token_id: int) -> Acceptance:
    """Store a record with its predictions if nothing is wrong with it.

    Args:
        database: where it is stored.
        record: the bytes of its file.
        predictions: those of the Parquet file beside it.
        token_id: of the token that submits it.
    """
    digest = hashlib.sha256(record).hexdigest()
    with database.session() as session:
        same = session.scalar(select(StoredRecord.id).where(StoredRecord.record_sha256 == digest))
    if same is not None:
        return Acceptance("duplicate", f"sha256 {digest[:12]}", same)
    with tempfile.TemporaryDirectory(prefix="carrara-submission-") as folder:
        path = Path(folder) / "record.json"
        path.write_bytes(record)
        parquet = path.with_suffix(".predictions.parquet")
        parquet.write_bytes(predictions)
        if findings := verify_isolated(path):
            # The folder of this machine is nothing to the submitter.
            plain = tuple(Finding(each.check, each.problem.replace(f"{folder}/", "")) for each in findings)
            return Acceptance("refused", _subject(path), findings=plain)
        parsed = read_record(path)
        truths = "" if parsed.partial else truths_identity(parquet)
    return _store(database, parsed, record, predictions, truths, token_id)


def verify_isolated(path: Path, seconds: float = VERIFY_SECONDS) -> list[Finding]:
    """Return what is wrong with a record, found in a process of its own whose time and memory are limited.

    Args:
        path: of the record.
        seconds: after which the process is ended, which is a finding too.
    """
    context: Any = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
    context.set_forkserver_preload(["carrara.bench.verify_record"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_verify_and_send, args=(path, sender), daemon=True)
    process.start()
    sender.close()
    problem = f"it was not verified within {seconds:g} s; run this task again"
    try:
        if receiver.poll(seconds):
            findings: list[Finding] = receiver.recv()
            return findings
    except EOFError:  # killed, or out of memory
        problem = f"it was not verified within {VERIFY_BYTES / 2**30:g} GiB of memory; run this task again"
    finally:
        process.kill()
        process.join()
        receiver.close()
    return [Finding("size", problem)]


def _verify_and_send(path: Path, sender: Connection) -> None:
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (VERIFY_BYTES, VERIFY_BYTES))
    sender.send(verify_record_file(path))


def _store(
    database: Database, parsed: Record, record: bytes, predictions: bytes, truths: str, token_id: int
) -> Acceptance:
    identity = {
        "system": parsed.encoder.name,
        "weights_sha256": parsed.encoder.weights_sha256,
        "protocol": parsed.protocol.name,
        "task": parsed.task.name,
        "task_version": parsed.task.version,
    }
    subject = f"{parsed.encoder.name}, {parsed.protocol.name}, {parsed.task.name}"
    stored = StoredRecord(
        **identity,
        fingerprint=parsed.task.fingerprint,
        truths_sha256=truths,
        record_sha256=hashlib.sha256(record).hexdigest(),
        record=record,
        predictions=predictions,
        token_id=token_id,
        submitted=now(),
    )
    query = select(StoredRecord.id).filter_by(**identity)
    try:
        with database.session() as session:
            if (other := session.scalar(query)) is not None:
                return Acceptance("duplicate", subject, other)
            others = select(StoredRecord.truths_sha256).where(
                StoredRecord.fingerprint == parsed.task.fingerprint, StoredRecord.truths_sha256 != ""
            )
            if truths and (known := session.scalar(others.limit(1))) is not None and known != truths:
                problem = "the truths, clips or groups are not those of the other records of this task and index"
                return Acceptance("refused", subject, findings=(Finding("predictions", problem),))
            session.add(stored)
            session.flush()
            return Acceptance("accepted", subject, stored.id)
    except IntegrityError:  # another request stored it in the meantime
        with database.session() as session:
            return Acceptance("duplicate", subject, session.scalar(query))


def _subject(path: Path) -> str:
    try:
        record = read_record(path)
    except StoreError:
        return "unreadable"
    return f"{record.encoder.name}, {record.protocol.name}, {record.task.name}"
