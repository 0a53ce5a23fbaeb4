"""`carrara explore` refuses what cannot work in one line."""

import socket

import pytest
from typer.testing import CliRunner

from carrara.cli._main import app


@pytest.mark.parametrize(
    "words, message",
    [
        (
            ["no.parquet", "--port", "0"],
            "no.parquet: no such table or feature store; make a table with",
        ),
        (["no.parquet", "--audio", "nowhere"], "--audio nowhere: no such folder"),
        (["no.parquet", "--labels", "a.csv", "--data", "gtzan"], "--labels and --data both name labels"),
    ],
)
def test_mistakes_are_one_line(words, message):
    result = CliRunner().invoke(app, ["explore", *words, "--no-browser"])
    assert result.exit_code in (1, 2) and len(result.stderr.strip().splitlines()) == 1
    assert message in result.stderr


def test_a_port_in_use_is_one_line():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = CliRunner().invoke(app, ["explore", "no.parquet", "--port", str(port), "--no-browser"])
        assert result.stderr.startswith(f"carrara explore: --port {port}: in use by another program")
