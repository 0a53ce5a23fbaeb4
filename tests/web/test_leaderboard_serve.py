"""`carrara leaderboard serve` as a process: it says where it answers, refuses a port in use, and ends on a signal."""

import os
import re
import signal
import socket
import subprocess
import sys

import pytest
import requests


def start(tmp_path, *arguments):
    environment = os.environ | {"CARRARA_DATABASE": f"sqlite:///{tmp_path}/l.db", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "carrara", "leaderboard", "serve", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True,
    )  # fmt: skip


@pytest.mark.slow
def test_it_serves_until_a_signal(tmp_path, write_genre_record):
    process = start(tmp_path, "--port", "0")
    try:
        line = process.stdout.readline()
        url = re.fullmatch(r"leaderboard at (http://127\.0\.0\.1:\d+) \(Ctrl-C ends it\)\n", line)[1]
        assert requests.get(f"{url}/api/health", timeout=120).json()["status"] == "ok"
        add = [sys.executable, "-m", "carrara", "leaderboard", "token", "add", "ada", "--database"]
        token = subprocess.check_output([*add, f"sqlite:///{tmp_path}/l.db"], text=True).strip()
        path = write_genre_record(tmp_path, "a")
        submit = [sys.executable, "-m", "carrara", "submit", str(path), "--url", url]
        done = subprocess.run(submit, capture_output=True, text=True, env=os.environ | {"CARRARA_TOKEN": token})
        assert (done.returncode, done.stderr) == (0, "1 accepted\n"), done.stderr
    finally:
        process.send_signal(signal.SIGTERM)
        _, problems = process.communicate(timeout=1200)
    assert process.returncode == 143
    assert "Traceback" not in problems


def test_a_port_in_use_is_one_line(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = start(tmp_path, "--port", str(port))
        _, problems = process.communicate(timeout=1200)
    assert process.returncode == 2
    assert problems.count("\n") == 1 and f"--port {port}: in use by another program" in problems
