"""The database of a leaderboard that takes submissions: records with their predictions, tokens and the audit log.

SQLite or PostgreSQL through SQLAlchemy; Alembic's migrations (`migrations/`) create the tables and change them. Times
are ISO 8601 in UTC, which sort as text. A record is stored as the bytes that were submitted.
"""

from __future__ import annotations

import hashlib
import secrets
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import (
    ForeignKey,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    func,
    make_url,
    select,
)
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from carrara.core.errors import StoreError, UsageError
from carrara.core.printable import one_line

MIGRATIONS = Path(__file__).parent / "migrations"
DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
TOKEN_PREFIX = "carrara_"
CONNECT_TRIES, CONNECT_WAIT_SECONDS, CONNECT_TIMEOUT_SECONDS = 5, 2.0, 10
Role = Literal["submit", "admin"]


class Base(DeclarativeBase):
    """The tables. Constraints have names, so that migrations can drop them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class AccessToken(Base):
    """A token: its name, what it may do, and the SHA-256 of its secret, which is stored nowhere."""

    __tablename__ = "tokens"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    role: Mapped[str] = mapped_column(String(10))
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    created: Mapped[str] = mapped_column(String(40))
    revoked: Mapped[str | None] = mapped_column(String(40))


class StoredRecord(Base):
    """An accepted record; `truths_sha256` is empty for a partial one, which has fewer clips than the others."""

    __tablename__ = "records"
    __table_args__ = (UniqueConstraint("system", "weights_sha256", "protocol", "task", "task_version"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    system: Mapped[str] = mapped_column(String(200))
    weights_sha256: Mapped[str] = mapped_column(String(200))
    protocol: Mapped[str] = mapped_column(String(200))
    task: Mapped[str] = mapped_column(String(200))
    task_version: Mapped[int]
    fingerprint: Mapped[str] = mapped_column(String(64), index=True)
    truths_sha256: Mapped[str] = mapped_column(String(64))
    record_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    record: Mapped[bytes] = mapped_column(LargeBinary)
    predictions: Mapped[bytes] = mapped_column(LargeBinary)
    token_id: Mapped[int] = mapped_column(ForeignKey("tokens.id"))
    submitted: Mapped[str] = mapped_column(String(40))


class AuditEntry(Base):
    """One line of the audit log: who tried what, from where, with which outcome. Lines are added and never changed."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(primary_key=True)
    time: Mapped[str] = mapped_column(String(40), index=True)
    actor: Mapped[str] = mapped_column(String(100))
    address: Mapped[str] = mapped_column(String(100))
    action: Mapped[str] = mapped_column(String(40))
    subject: Mapped[str] = mapped_column(String(600))
    outcome: Mapped[str] = mapped_column(String(40))
    detail: Mapped[str] = mapped_column(Text)


class Database:
    """An open database with all migrations applied."""

    def __init__(self, url: URL) -> None:
        options = {"connect_args": {"connect_timeout": CONNECT_TIMEOUT_SECONDS}} if url.drivername != "sqlite" else {}
        try:
            self.engine = create_engine(url, pool_pre_ping=True, **options)
        except ModuleNotFoundError:
            raise UsageError("--database: PostgreSQL needs psycopg: pip install 'carrara[web]'") from None
        self.shown = url.render_as_string(hide_password=True)
        if url.drivername == "sqlite":
            event.listen(self.engine, "connect", _set_up_sqlite)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Yield a session; commit at the end, roll back on an exception."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    def migrate(self) -> None:
        """Apply the migrations that are missing.

        Raises:
            StoreError: the database is of a newer version.
        """
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        try:
            with self.engine.begin() as connection:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except CommandError as problem:
            raise StoreError(
                f"--database {self.shown}: it is of another version ({one_line(str(problem))}); upgrade carrara"
            ) from None

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def open_database(address: str, tries: int = CONNECT_TRIES, wait_seconds: float = CONNECT_WAIT_SECONDS) -> Database:
    """Return a database with all migrations applied, waiting for one that does not answer.

    Args:
        address: `sqlite:///file.db` or `postgresql://user:password@host/name`.
        tries: how often a PostgreSQL that does not answer is tried.
        wait_seconds: between two tries.

    Raises:
        UsageError: the address is none, or names another kind of database.
        StoreError: the database does not answer, or is of a newer version.
    """
    try:
        url = make_url(address)
        url = url.set(drivername=DRIVERS[url.drivername.partition("+")[0]])
        database = Database(url)
    except (ArgumentError, KeyError, NoSuchModuleError, ValueError):
        raise UsageError(
            f"--database {address.partition('@')[2] or address}: write sqlite:///file.db or "
            "postgresql://user:password@host/name"
        ) from None
    tries = 1 if url.drivername == "sqlite" else tries
    for number in range(1, tries + 1):
        try:
            database.migrate()
            return database
        except DBAPIError as problem:
            reason = one_line(str(problem.orig).strip().partition("\n")[0])[:200]
        if number < tries:
            warnings.warn(
                f"--database {database.shown}: no answer ({reason}); try {number + 1} of {tries} in {wait_seconds:g} s",
                stacklevel=2,
            )
            time.sleep(wait_seconds)
    database.close()
    cure = "name a file in a folder that exists and can be written"
    if url.drivername != "sqlite":
        cure = "start the server, or correct host, port, user, password and name"
    raise StoreError(f"--database {database.shown}: cannot be opened ({reason}); {cure}")


def now(seconds_ago: float = 0.0) -> str:
    """Return the time in UTC, or that of some seconds ago, as the tables have it."""
    return (datetime.now(UTC) - timedelta(seconds=seconds_ago)).isoformat(timespec="microseconds")


def hash_token(secret: str) -> str:
    """Return the SHA-256 of a token. Its 256 random bits need no salt and no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()


def add_token(database: Database, name: str, role: Role) -> str:
    """Store a new token and return its secret, which cannot be shown again.

    Raises:
        UsageError: the name is empty, too long, or in use.
    """
    if not name.strip() or len(name) > 100 or one_line(name) != name:
        raise UsageError(f"{name[:40]!r}: a token's name has 1 to 100 characters, none of them control codes")
    secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
    with database.session() as session:
        if session.scalar(select(AccessToken).where(AccessToken.name == name)) is not None:
            raise UsageError(f"{name!r}: there is a token of this name; choose another name")
        session.add(AccessToken(name=name, role=role, sha256=hash_token(secret), created=now()))
        write_audit(session, "local", "", "token add", name, role)
    return secret


def revoke_token(database: Database, name: str) -> None:
    """Revoke a token; its records stay.

    Raises:
        UsageError: there is no such token.
    """
    with database.session() as session:
        token = session.scalar(select(AccessToken).where(AccessToken.name == name))
        if token is None:
            raise UsageError(f"{name!r}: there is no token of this name; `carrara leaderboard token list` shows all")
        token.revoked = token.revoked or now()
        write_audit(session, "local", "", "token revoke", name, "done")


def write_audit(
    session: Session, actor: str, address: str, action: str, subject: str, outcome: str, detail: str = ""
) -> None:
    """Add a line to the audit log, without control codes."""
    session.add(
        AuditEntry(
            time=now(),
            actor=actor,
            address=address[:100],
            action=action,
            subject=one_line(subject)[:600],
            outcome=outcome,
            detail=one_line(detail)[:2000],
        )
    )


def count_audit(session: Session, seconds: float, **values: str) -> int:
    """Return how many lines of the last seconds have these values."""
    query = select(func.count()).select_from(AuditEntry).where(AuditEntry.time > now(seconds)).filter_by(**values)
    return session.scalar(query) or 0


def _set_up_sqlite(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA busy_timeout=10000")
    cursor.close()
