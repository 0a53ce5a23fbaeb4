"""A lock excludes other processes and threads, is removed on release, and ends with its process; downloads use it."""

import hashlib
import io
import signal
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from carrara.core.download import Remote, download
from carrara.core.errors import StoreError
from carrara.core.io import file_lock
from carrara.core.progress import progress

BODY = np.random.default_rng(0).bytes(300_000)
HOLD = """
import sys, time
from pathlib import Path
from carrara.core.io import file_lock
with file_lock(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Return another process that holds the lock."""
    child = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "lock"], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "locked\n"
    yield child
    child.kill()
    child.wait()
    child.stdout.close()


def test_a_lock_waits_for_another_process_even_one_that_is_killed(tmp_path, holder):
    acquired = threading.Event()

    def acquire():
        with file_lock(tmp_path / "lock"):
            acquired.set()

    thread = threading.Thread(target=acquire)
    thread.start()
    assert not acquired.wait(0.5)
    holder.send_signal(signal.SIGKILL)
    assert acquired.wait(120)
    thread.join()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_does_not_wait_says_that_another_process_writes(tmp_path, holder):
    with (
        pytest.raises(StoreError, match=f"{tmp_path}: another process is writing here"),
        file_lock(tmp_path / "lock", wait=False),
    ):
        pass
    assert (tmp_path / "lock").exists()


def test_waiting_is_shown(tmp_path, holder, monkeypatch, capsys):
    def kill_and_show(*arguments):
        holder.kill()
        return progress(*arguments)

    monkeypatch.setenv("CARRARA_PROGRESS", "1")
    monkeypatch.setattr("carrara.core.io.progress", kill_and_show)
    with file_lock(tmp_path / "lock"):
        pass
    assert "waiting for another process" in capsys.readouterr().err


def test_a_folder_that_cannot_be_created_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match="file: cannot write here"), file_lock(tmp_path / "file" / "lock"):
        pass


def test_a_folder_that_cannot_be_made_is_an_error_and_no_endless_loop(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for folder in ("/proc/none/such", tmp_path / "file" / "below"):
        with pytest.raises(StoreError, match="cannot write here"), file_lock(Path(folder) / "lock", wait=False):
            pass
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(StoreError, match="cannot write here"), file_lock(Path("below/lock"), wait=False):
        pass


def test_only_one_of_many_threads_holds_the_lock(tmp_path):
    inside, most = [], []

    def acquire():
        for _ in range(10):
            with file_lock(tmp_path / "deep" / "lock"):
                inside.append(1)
                most.append(len(inside))
                threading.Event().wait(0.002)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=acquire) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 160 and max(most) == 1 and not (tmp_path / "deep" / "lock").exists()


def zipped(name):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, BODY)
    return buffer.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("version", [{}, {"ETag": '"one"'}])
@pytest.mark.parametrize("archive", [False, True])
def test_a_second_download_of_a_file_waits_for_the_first(running, tmp_path, version, archive):
    running.reset(zipped("a.bin") if archive else BODY)
    running.version, running.drops, running.stall = version, [100_000], True
    remote = Remote(running.url(), "file.bin", unpack="inside" if archive else None)
    paths = []
    threads = [threading.Thread(target=lambda: paths.append(download(remote, tmp_path))) for _ in range(2)]
    threads[0].start()
    waiting = threading.Event()
    while not (tmp_path / ".file.bin.part").exists():
        waiting.wait(0.01)
    threads[1].start()
    waiting.wait(0.5)
    assert running.requested == [None]
    running.stall = False
    running.released.set()
    for thread in threads:
        thread.join(20)
    assert paths == [tmp_path / ("inside" if archive else "file.bin")] * 2
    assert len(running.requested) == 2  # the dropped connection and the rest
    assert (tmp_path / "inside" / "a.bin" if archive else paths[0]).read_bytes() == BODY
    assert not (tmp_path / ".file.bin.lock").exists()


def test_an_existing_file_needs_no_lock(tmp_path):
    (tmp_path / "file.bin").write_bytes(BODY)
    (tmp_path / ".file.bin.lock").mkdir()
    assert (
        download(Remote("http://127.0.0.1:9/", "file.bin", hashlib.sha256(BODY).hexdigest()), tmp_path).read_bytes()
        == BODY
    )
