"""A leaderboard that takes submissions, through a real server, on SQLite and on PostgreSQL."""

import hashlib
import json
import socket
import time

import pytest
import requests
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import func, select
from typer.testing import CliRunner

from carrara.cli._main import app as command_line
from carrara.core.errors import StoreError, UsageError
from carrara.web.leaderboard.accept import verify_isolated
from carrara.web.leaderboard.database import (
    AccessToken,
    AuditEntry,
    Base,
    StoredRecord,
    add_token,
    open_database,
    revoke_token,
)
from carrara.web.leaderboard.submit import submit_records


def upload(url, token, path, **files):
    """Post a record as any HTTP client would; `files` replace or, None, leave out a part."""
    parts = {
        "record": path.read_bytes(),
        "predictions": path.with_suffix(".predictions.parquet").read_bytes(),
    } | files
    return requests.post(
        f"{url}/api/records",
        files={name: (f"../../{name}", content) for name, content in parts.items() if content is not None},
        headers={"Authorization": f"Bearer {token}"} if token else {},
        timeout=60,
    )


def wait_for_page(url, expected):
    """Return the site's data once `expected` is true of it."""
    for _ in range(3000):
        answer = requests.get(f"{url}/data/leaderboard.json", timeout=60)
        if answer.status_code == 200 and expected(answer.json()):
            return answer.json()
        time.sleep(0.1)
    raise AssertionError(answer.text[:500])


def test_migrations_give_the_tables_of_the_metadata(database_url):
    database = open_database(database_url)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    database.migrate()  # once more changes nothing
    with database.engine.begin() as connection:
        connection.exec_driver_sql("update alembic_version set version_num = 'r9999'")
    database.close()
    with pytest.raises(StoreError, match=r"another version .*; upgrade carrara"):
        open_database(database_url)


@pytest.mark.slow
def test_a_record_goes_from_the_command_to_the_page(database_url, serve, write_genre_record, tmp_path, monkeypatch):
    first, second = (write_genre_record(tmp_path / "results", name, skill) for name, skill in (("a", 0.9), ("b", 0.4)))
    runner = CliRunner()
    done = runner.invoke(command_line, ["leaderboard", "token", "add", "ada", "--database", database_url, "--json"])
    token = json.loads(done.stdout)["token"]
    with serve(database_url) as (url, _):
        assert wait_for_page(url, lambda data: True)["systems"] == []
        monkeypatch.setenv("CARRARA_TOKEN", token)
        done = runner.invoke(command_line, ["submit", str(tmp_path / "results"), "--url", url])
        assert done.exit_code == 0, done.output
        assert done.stdout.splitlines() == [
            f"{first}: accepted: a, constrained, pebble/genre, record 1",
            f"{second}: accepted: b, constrained, pebble/genre, record 2",
        ]
        data = wait_for_page(url, lambda data: len(data["systems"]) == 2)
        assert [system["name"] for system in data["systems"]] == ["a", "b"]
        again = runner.invoke(command_line, ["submit", str(first), "--url", url, "--json"])
        assert again.exit_code == 0
        assert json.loads(again.stdout) == {
            "path": str(first), "outcome": "duplicate", "detail": "the record is there already, as number 1"
        }  # fmt: skip
        stored = requests.get(f"{url}/api/records/1", timeout=60)
        assert stored.content == first.read_bytes()
        lines = requests.get(f"{url}/api/records", timeout=60).json()
        assert [(line["id"], line["system"], line["submitted_by"]) for line in lines] == [
            (1, "a", "ada"),
            (2, "b", "ada"),
        ]
        assert requests.get(f"{url}/api/health", timeout=60).json()["records"] == 2


@pytest.mark.slow
def test_faulty_records_are_refused_with_reasons(serve, write_genre_record, tmp_path, edit):
    url = f"sqlite:///{tmp_path}/l.db"
    database = open_database(url)
    token = add_token(database, "ada", "submit")
    good = write_genre_record(tmp_path / "good", "good")
    bad = write_genre_record(tmp_path / "bad", "bad", **{"grid.0.learning_rate": 0.3, "scores.accuracy.value": 0.99})
    other = write_genre_record(tmp_path / "other", "good", skill=0.5)
    with serve(url) as (address, _):
        answer = upload(address, token, bad)
        assert answer.status_code == 422
        checks = [each["check"] for each in answer.json()["findings"]]
        assert checks == ["protocol", "scores"]
        assert "learning rate 0.3" in answer.json()["findings"][0]["problem"]
        assert upload(address, token, good).status_code == 201
        taken = upload(address, token, other)
        assert (taken.status_code, taken.json()["detail"]) == (409, "the record is there already, as number 1")
        for parts, status in (
            ({"record": None}, 422),
            ({"predictions": None}, 422),
            ({"record": b"{"}, 422),
            ({"record": b"[" * 100_000}, 422),
            ({"record": b'{"schema": 2, "a": ' + b"9" * 5000 + b"}"}, 422),
            ({"record": b" " * (5 * 2**20)}, 413),
            ({"predictions": b"PAR1 no PAR1"}, 422),
            ({"third": b"x"}, 400),
        ):
            # Another system each time, so that the record is no duplicate.
            path = write_genre_record(tmp_path / "parts", "new")
            answer = upload(address, token, path, **parts)
            assert answer.status_code == status, answer.text
            assert "\n" not in answer.json()["detail"] and str(tmp_path) not in answer.text
            assert "/tmp" not in answer.text
    with database.session() as session:
        assert session.scalar(select(func.count()).select_from(StoredRecord)) == 1


def test_other_truths_of_the_same_task_are_refused(serve, write_genre_record, tmp_path):
    url = f"sqlite:///{tmp_path}/l.db"
    token = add_token(open_database(url), "ada", "submit")
    with serve(url) as (address, _):
        assert upload(address, token, write_genre_record(tmp_path, "a")).status_code == 201
        answer = upload(address, token, write_genre_record(tmp_path, "cheat", truth_seed=7))
        assert answer.status_code == 422
        assert "truths, clips or groups are not those of the other records" in answer.json()["detail"]


def test_tokens_roles_and_the_audit_log(serve, write_genre_record, tmp_path):
    url = f"sqlite:///{tmp_path}/l.db"
    database = open_database(url)
    ada, owner = add_token(database, "ada", "submit"), add_token(database, "owner", "admin")
    with database.session() as session:
        hashes = [token.sha256 for token in session.scalars(select(AccessToken))]
    assert hashes == [hashlib.sha256(token.encode()).hexdigest() for token in (ada, owner)]
    with pytest.raises(UsageError, match="there is a token of this name"):
        add_token(database, "ada", "admin")
    path = write_genre_record(tmp_path, "a")
    with serve(url) as (address, _):

        def call(method, route, token):
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            return requests.request(method, address + route, headers=headers, timeout=60)

        assert upload(address, "", path).status_code == 401
        assert upload(address, "carrara_wrong", path).json()["detail"].startswith("the token is not one of this")
        assert upload(address, ada, path).status_code == 201
        assert call("DELETE", "/api/records/1", ada).status_code == 403
        assert call("GET", "/api/audit", ada).status_code == 403
        assert call("DELETE", "/api/records/1", owner).status_code == 204
        assert call("DELETE", "/api/records/1", owner).status_code == 404
        revoke_token(database, "ada")
        answer = upload(address, ada, path)
        assert answer.status_code == 401 and "'ada' was revoked on 20" in answer.json()["detail"]
        lines = call("GET", "/api/audit", owner).json()
        seen = [(line["actor"], line["action"], line["outcome"]) for line in reversed(lines)]
        assert seen == [
            ("local", "token add", "submit"),
            ("local", "token add", "admin"),
            ("", "token", "refused"),
            ("", "token", "refused"),
            ("ada", "submit", "accepted"),
            ("ada", "token", "refused"),
            ("ada", "token", "refused"),
            ("owner", "delete", "done"),
            ("owner", "delete", "absent"),
            ("local", "token revoke", "done"),
            ("ada", "token", "refused"),
        ]
        assert all(secret not in json.dumps(lines) for secret in (ada, owner))
        with pytest.raises(UsageError, match=r"--token: refused by .*was revoked"):
            list(submit_records([path], address, ada))
        for _ in range(30):
            last = call("GET", "/api/audit", "carrara_guess")
        assert last.status_code == 429 and last.headers["Retry-After"] == "60"


def test_a_token_submits_so_many_records_a_minute(serve, write_genre_record, tmp_path):
    url = f"sqlite:///{tmp_path}/l.db"
    token = add_token(open_database(url), "ada", "submit")
    with serve(url, per_minute=2) as (address, _):
        statuses = [upload(address, token, write_genre_record(tmp_path, f"s{n}")).status_code for n in range(3)]
        assert statuses == [201, 201, 429]
        with pytest.raises(UsageError, match="no success in 4 tries .*run the same command again to continue"):
            list(submit_records([write_genre_record(tmp_path, "s9")], address, token, wait_seconds=0.0))


def test_pages_have_headers_and_hostile_names_stay_text(serve, write_genre_record, tmp_path):
    url = f"sqlite:///{tmp_path}/l.db"
    token = add_token(open_database(url), "ada", "submit")
    name = '<img src=x onerror=alert(1)>"; ../../etc/passwd'
    with serve(url) as (address, _):
        assert upload(address, token, write_genre_record(tmp_path, name)).status_code == 201
        data = wait_for_page(address, lambda data: len(data["systems"]) == 1)
        assert data["systems"][0]["name"] == name
        page = requests.get(f"{address}/", timeout=60)
        assert page.headers["Content-Type"].startswith("text/html") and "<script>" not in page.text
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert page.headers["X-Content-Type-Options"] == "nosniff"
        assert "Set-Cookie" not in page.headers
        slug = data["systems"][0]["slug"]
        assert requests.get(f"{address}/data/systems/{slug}.json", timeout=60).status_code == 200
        for path in ("../results", "..%2f..%2f..%2fetc%2fpasswd", "%00", "a" * 5000, "data", "nothing.html"):
            answer = requests.get(f"{address}/{path}", timeout=60)
            assert answer.status_code == 404, path
            assert "Content-Security-Policy" in answer.headers


def test_an_upload_that_is_cut_off_leaves_nothing(serve, write_genre_record, tmp_path):
    url = f"sqlite:///{tmp_path}/l.db"
    token = add_token(open_database(url), "ada", "submit")
    path = write_genre_record(tmp_path, "a")
    with serve(url) as (address, _):
        request = requests.Request(
            "POST", f"{address}/api/records", files={"record": path.read_bytes()},
            headers={"Authorization": f"Bearer {token}"},
        ).prepare()  # fmt: skip
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            head = "POST /api/records HTTP/1.1\r\nHost: x\r\n" + "".join(
                f"{name}: {value}\r\n" for name, value in request.headers.items()
            )
            connection.sendall(head.encode() + b"\r\n" + request.body[: len(request.body) // 2])
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head.replace(request.headers["Content-Length"], "9" * 12).encode() + b"\r\n")
            assert b"413" in connection.recv(100)
        assert requests.get(f"{address}/api/health", timeout=60).json()["records"] == 0
        assert upload(address, token, path).status_code == 201


@pytest.mark.slow
def test_a_database_that_is_down_is_a_clear_answer(postgresql, serve, write_genre_record, tmp_path):
    url, control = postgresql
    token = add_token(open_database(url), "ada", "submit")
    with serve(url) as (address, _):
        control("stop")
        try:
            answer = upload(address, token, write_genre_record(tmp_path, "a"))
            assert (answer.status_code, answer.json()["detail"]) == (
                503, "the database does not answer; try again in a few seconds"
            )  # fmt: skip
            assert requests.get(f"{address}/api/health", timeout=60).status_code == 503
            with (
                pytest.warns(UserWarning, match="no answer .*try 2 of 2"),
                pytest.raises(StoreError, match="start the server, or correct host") as problem,
            ):
                open_database(url, tries=2, wait_seconds=0.0)
            assert "secret" not in str(problem.value) and "\n" not in str(problem.value)
        finally:
            control("start")
        assert upload(address, token, write_genre_record(tmp_path, "a")).status_code == 201
    database = open_database(url)
    with database.session() as session:
        for table in (StoredRecord, AccessToken, AuditEntry):
            for row in session.scalars(select(table)):
                session.delete(row)
                session.flush()
    database.close()


def test_mistakes_of_submit_are_one_line(write_genre_record, tmp_path, edit):
    path = write_genre_record(tmp_path, "a")
    for arguments, pattern in (
        (["--url", "http://127.0.0.1:9", "--token", ""], "no token"),
        (["--url", "leaderboard", "--token", "x"], "write the leaderboard's address"),
        (["--url", "http://example.org", "--token", "x"], "unencrypted; write https"),
        (["--url", "http://127.0.0.1:9", "--token", "a\nb"], "--token: it is no token"),
    ):
        done = CliRunner().invoke(command_line, ["submit", str(path), *arguments], env={"CARRARA_TOKEN": ""})
        assert done.exit_code == 2 and pattern in done.stderr and done.stderr.count("\n") == 1, done.stderr
    edit(path, **{"scores.accuracy.value": 0.1})
    results = list(submit_records([path], "http://127.0.0.1:9", "x"))  # a faulty record is not uploaded
    assert [result.outcome for result in results] == ["refused"] and "accuracy is 0.1" in results[0].detail


def test_verification_has_a_time_limit(write_genre_record, tmp_path):
    path = write_genre_record(tmp_path, "a")
    assert verify_isolated(path) == []
    assert "not verified within 0 s" in str(verify_isolated(path, seconds=0.0)[0])
