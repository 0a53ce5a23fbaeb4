"""A process that extracts is killed with SIGKILL at random moments; resumed, its store equals an undisturbed one."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from carrara.features.extract import WindowSpec, extract

pytestmark = pytest.mark.slow

KILLS = 8
# Torch is imported once; each line of input forks a child that extracts, before any thread has been started.
FORKING = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from conftest import Plain
from pathlib import Path
from carrara.core.clip import Clip
from carrara.features.extract import WindowSpec, extract

class Slow(Plain):
    def forward(self, samples_BT, lengths_B=None):
        time.sleep(0.03)
        return super().forward(samples_BT, lengths_B)

clips = [Clip(path.stem, path) for path in sorted(Path(sys.argv[2]).iterdir())]
for _ in sys.stdin:
    child = os.fork()
    if not child:
        extract(Slow(), clips, WindowSpec(pool=sys.argv[4], window_seconds=1.0), home=Path(sys.argv[3]))
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def lines(home):
    return sum(log.read_bytes().count(b"\n") for log in home.glob("features/*/*/items.jsonl"))


@pytest.mark.parametrize("pool", ["mean", "frames"])
def test_extraction_killed_at_random_moments_equals_an_undisturbed_one(tmp_path, plain, clips, pool):
    sounds = clips(*np.random.default_rng(3).uniform(0.2, 4.0, 150))
    rng = np.random.default_rng(7)
    home = tmp_path / "home"
    command = [sys.executable, "-c", FORKING, os.path.dirname(__file__), str(sounds[0].path.parent), str(home), pool]
    sizes, ends = [], []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as parent:
        for _ in range(KILLS):
            before = lines(home)
            parent.stdin.write("\n")
            child = int(parent.stdout.readline())
            until = time.monotonic() + 300
            while lines(home) == before and time.monotonic() < until:
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.05))
            with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
                os.kill(child, signal.SIGKILL)
            ends.append(int(parent.stdout.readline()))
            sizes.append(lines(home))
        parent.stdin.close()
    assert sizes == sorted(sizes)
    assert ends.count(-signal.SIGKILL) >= 2, "hardly ever interrupted"
    assert 0 < sizes[0] < len(sounds)
    spec = WindowSpec(pool=pool, window_seconds=1.0)
    resumed = extract(plain(), sounds, spec, home=home)
    whole = extract(plain(), sounds, spec, home=tmp_path / "other")
    for name in whole.layers:
        assert resumed.layer(name).shape == whole.layer(name).shape
        for own, other in zip(resumed.rows, whole.rows):
            np.testing.assert_array_equal(resumed.layer(name)[own], whole.layer(name)[other])
    ranges = sorted((rows.start, rows.stop) for rows in resumed.rows)
    assert ranges[0][0] == 0
    assert all(before[1] == after[0] for before, after in itertools.pairwise(ranges))
    assert ranges[-1][1] == len(resumed.layer("0"))
