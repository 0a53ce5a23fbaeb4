"""A real process that extracts is killed with SIGKILL at random moments; resumed, its store is as one left alone."""

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

KILLS = 8
# Torch is imported once; each line of input forks a child that extracts, before any thread has been started.
NURSERY = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from conftest import Plain
from pathlib import Path
from carrara.core.clip import Clip
from carrara.features.extract import View, extract

class Slow(Plain):
    def forward(self, samples_BT, lengths_B=None):
        time.sleep(0.03)
        return super().forward(samples_BT, lengths_B)

clips = [Clip(path.stem, path) for path in sorted(Path(sys.argv[2]).iterdir())]
for _ in sys.stdin:
    child = os.fork()
    if not child:
        extract(Slow(), clips, View(pool=sys.argv[4], window_seconds=1.0), home=Path(sys.argv[3]))
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def lines(home):
    return sum(log.read_bytes().count(b"\n") for log in home.glob("features/*/*/items.jsonl"))


@pytest.mark.parametrize("pool", ["mean", "frames"])
def test_extraction_killed_at_random_moments_ends_as_one_left_alone(tmp_path, plain, clips, pool):
    sounds = clips(*np.random.default_rng(3).uniform(0.2, 4.0, 150))
    rng = np.random.default_rng(7)
    home = tmp_path / "home"
    command = [sys.executable, "-c", NURSERY, os.path.dirname(__file__), str(sounds[0].path.parent), str(home), pool]
    sizes, ends = [], []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as nursery:
        for _ in range(KILLS):
            had = lines(home)
            nursery.stdin.write("\n")
            child = int(nursery.stdout.readline())
            until = time.monotonic() + 10
            while lines(home) == had and time.monotonic() < until:
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.05))
            with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
                os.kill(child, signal.SIGKILL)
            ends.append(int(nursery.stdout.readline()))
            sizes.append(lines(home))
        nursery.stdin.close()
    assert sizes == sorted(sizes)
    assert ends.count(-signal.SIGKILL) >= 2, "hardly ever interrupted"
    assert 0 < sizes[0] < len(sounds)
    view = WindowSpec(pool=pool, window_seconds=1.0)
    resumed = extract(plain(), sounds, view, home=home)
    whole = extract(plain(), sounds, view, home=tmp_path / "other")
    for name in whole.layers:
        assert resumed.layer(name).shape == whole.layer(name).shape
        for one, other in zip(resumed.rows, whole.rows):
            np.testing.assert_array_equal(resumed.layer(name)[one], whole.layer(name)[other])
    taken = sorted((rows.start, rows.stop) for rows in resumed.rows)
    assert taken[0][0] == 0
    assert all(before[1] == after[0] for before, after in itertools.pairwise(taken))
    assert taken[-1][1] == len(resumed.layer("0"))
