"""`carrara serve` as a process: starts, answers, stops by Ctrl-C, and refuses what cannot work in one line."""

import os
import re
import signal
import socket
import subprocess
import sys

import httpx
import pytest
from typer.testing import CliRunner

from carrara.cli._main import app


def refused(*words):
    result = CliRunner().invoke(app, ["serve", *map(str, words)])
    lines = result.stderr.strip().splitlines()
    assert result.exit_code == 2 and len(lines) == 1, result.stderr
    return lines[0]


@pytest.mark.slow
def test_starts_answers_and_stops_by_ctrl_c(recordings, tmp_path):
    command = [sys.executable, "-m", "carrara", "serve", "chroma-mfcc", "--port", "0"]
    # An ignored SIGINT, as in a shell's background, would be inherited.
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CARRARA_HOME": str(tmp_path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    url = re.search(r"http://\S+", process.stderr.readline())[0]
    with open(recordings[0], "rb") as file:
        answer = httpx.post(f"{url}/embed", files={"file": file}, timeout=300, trust_env=False)
    assert answer.status_code == 200
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=300)
    assert (process.returncode, rest) == (130, "carrara serve: stopped\n")


def test_a_port_in_use_is_one_line():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        line = refused("chroma-mfcc", "--port", port)
        assert line.startswith(f"carrara serve: --port {port}: in use by another program")
        assert refused("chroma-mfcc", "--host", "192.0.2.1", "--port", 0).startswith("carrara serve: --host 192.0.2.1:")


def test_a_library_of_another_encoder_is_refused(library, tmp_path):
    line = refused("chroma-mfcc", "--index", library, "--port", 0)
    assert "made with other weights of mert-tiny:random than chroma-mfcc has here; serve the encoder" in line
    assert "name it with --index" in refused("chroma-mfcc", "--song-ids", tmp_path / "ids.csv")
    assert "did you mean" in refused("chroma-mfc", "--port", 0).lower()
