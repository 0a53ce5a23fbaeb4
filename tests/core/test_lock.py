"""A lock file holds others off, is gone when nobody holds it, and does not outlive who was killed; downloads use it."""

import hashlib
import io
import signal
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pytest

from carrara.core.download import Remote, download
from carrara.core.lock import locked

BODY = np.random.default_rng(0).bytes(300_000)
HOLD = "import sys, time; from pathlib import Path; from carrara.core.lock import locked\n"
HOLD += "with locked(Path(sys.argv[1]), bool(int(sys.argv[2]))):\n    print('held', flush=True); time.sleep(60)"


@pytest.fixture
def holder(tmp_path):
    """Return the function that makes another process hold the lock, and gives that process."""
    made = []

    def make(shared=0):
        child = subprocess.Popen(
            [sys.executable, "-c", HOLD, tmp_path / "lock", str(shared)], stdout=subprocess.PIPE, text=True
        )
        made.append(child)
        assert child.stdout.readline() == "held\n"
        return child

    yield make
    for child in made:
        child.kill()
        child.wait()
        child.stdout.close()


@pytest.mark.parametrize("shared", [False, True])
def test_one_waits_for_another_process_even_one_that_is_killed(tmp_path, holder, shared):
    child, got = holder(), threading.Event()

    def take():
        with locked(tmp_path / "lock", shared):
            got.set()

    thread = threading.Thread(target=take)
    thread.start()
    assert not got.wait(0.5)
    child.send_signal(signal.SIGKILL)
    assert got.wait(10)
    thread.join()
    assert list(tmp_path.iterdir()) == []


def test_those_who_share_are_together_and_the_last_is_alone(tmp_path, holder):
    child = holder(shared=1)
    with locked(tmp_path / "lock", shared=True) as alone:
        assert not alone()
    assert (tmp_path / "lock").exists()
    child.kill()
    child.wait()
    with locked(tmp_path / "lock", shared=True) as alone:
        assert alone()
    assert list(tmp_path.iterdir()) == []


def test_many_at_once_are_never_two_inside(tmp_path):
    inside, most = [], []

    def take():
        for _ in range(10):
            with locked(tmp_path / "deep" / "lock"):
                inside.append(1)
                most.append(len(inside))
                threading.Event().wait(0.002)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 160 and max(most) == 1 and not (tmp_path / "deep" / "lock").exists()


def zipped(name):
    page = io.BytesIO()
    with zipfile.ZipFile(page, "w") as archive:
        archive.writestr(name, BODY)
    return page.getvalue()


@pytest.mark.parametrize("stated", [{}, {"ETag": '"one"'}])
@pytest.mark.parametrize("archive", [False, True])
def test_of_two_who_want_one_file_the_second_waits_and_finds_it(running, tmp_path, stated, archive):
    running.fresh(zipped("a.bin") if archive else BODY)
    running.stated, running.drops, running.stall = stated, [100_000], True
    remote = Remote(running.url(), "file.bin", unpack="inside" if archive else None)
    found = []
    threads = [threading.Thread(target=lambda: found.append(download(remote, tmp_path))) for _ in range(2)]
    threads[0].start()
    waiting = threading.Event()
    while not (tmp_path / ".file.bin.part").exists():
        waiting.wait(0.01)
    threads[1].start()
    waiting.wait(0.5)
    assert running.asked == [None]
    running.stall = False
    running.released.set()
    for thread in threads:
        thread.join(20)
    assert found == [tmp_path / ("inside" if archive else "file.bin")] * 2
    assert len(running.asked) == 2  # the drop, and what was left
    assert (tmp_path / "inside" / "a.bin" if archive else found[0]).read_bytes() == BODY
    assert not (tmp_path / ".file.bin.lock").exists()


def test_what_stands_there_is_found_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file.bin").write_bytes(BODY)
    (tmp_path / ".file.bin.lock").mkdir()
    assert (
        download(Remote("http://127.0.0.1:9/", "file.bin", hashlib.sha256(BODY).hexdigest()), tmp_path).read_bytes()
        == BODY
    )
