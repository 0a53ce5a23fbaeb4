"""Beat decoding: milliseconds a 30-s clip at 75 frames a second, beside a Viterbi that moves every state every frame.

    python benchmarks/beat_decoder.py               one core; 1, 16, 64 and 512 clips at once
    python benchmarks/beat_decoder.py --device cuda

The peer is the same model as a NumPy program over all 3,193 states at 75 frames a second: positions shift, beats begin
with the best change of interval, back pointers are kept. Both find the same beats, which is checked. The goal is 20 ms.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from carrara.bench.beat_decoder import OBSERVATION, beat_times, tempo_space

RATE, SECONDS, GOAL = 75.0, 30, 20


def clips(count: int, device: str) -> list[torch.Tensor]:
    """Return logits as a probe may give them: beats of some tempo, half heard, in noise."""
    draw = np.random.default_rng(0)
    made = []
    for _ in range(count):
        logits = draw.normal(-3, 1.5, round(RATE * SECONDS)).astype(np.float32)
        beats = np.arange(draw.uniform(0, 0.5), SECONDS - 0.1, 60 / draw.uniform(60, 200))
        logits[np.round(beats * RATE).astype(int)] += draw.uniform(0, 8, len(beats))
        made.append(torch.from_numpy(logits).to(device))
    return made


def state_by_state(logits: np.ndarray) -> np.ndarray:
    """Return the first frame of each beat that begins in the clip, by a Viterbi over every state."""
    space = tempo_space(RATE)
    intervals, change_TT = space.interval_T.numpy(), space.log_change_TT.numpy()
    first = np.concatenate(([0], np.cumsum(intervals)[:-1]))
    last = first + intervals - 1
    position = np.arange(intervals.sum()) - np.repeat(first, intervals)
    beat = position < np.repeat(intervals, intervals) / OBSERVATION
    log_p = -np.logaddexp(0, -logits.astype(np.float64))
    log_rest = -np.logaddexp(0, logits.astype(np.float64)) - math.log(OBSERVATION - 1)
    score = np.where(beat, log_p[0], log_rest[0])
    backs = []
    for frame in range(1, len(logits)):
        moved = np.roll(score, 1)
        entered = score[last][:, None] + change_TT
        moved[first] = entered.max(0)
        backs.append(entered.argmax(0))
        score = moved + np.where(beat, log_p[frame], log_rest[frame])
    state, starts = int(score.argmax()), []
    tempo_of = {int(place): tempo for tempo, place in enumerate(first)}
    for frame in range(len(logits) - 1, -1, -1):
        if state in tempo_of:
            starts.append(frame)
            state = int(last[backs[frame - 1][tempo_of[state]]]) if frame else state
        else:
            state -= 1
    return np.array(starts[::-1])


def best(work: Callable[[], Any], times: int, device: str) -> float:
    """Return the least seconds of several runs."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    return min(found)


def main() -> None:
    """Check that both agree, time both and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="where our decoder runs (default cpu)")
    device = parser.parse_args().device
    torch.set_num_threads(1)
    made = clips(512, device)
    for one in made[:3]:
        plain = state_by_state(one.cpu().numpy()) / RATE
        ours = beat_times([one], RATE)[0]
        # The peak of a beat is at most a sixteenth of the longest interval after its start.
        near = np.abs(ours[:, None] - plain).min(0)
        if not (near < 6 / RATE).all():
            raise SystemExit("the two decoders disagree")
    alone = best(lambda: state_by_state(made[0].cpu().numpy()), 3, "cpu")
    print(f"{len(made[0])} frames a clip, one core; the goal is {GOAL} ms a clip")
    print(f"state by state    1 clip   {alone * 1e3:8.1f} ms a clip")
    for count in (1, 16, 64, 512):
        each = best(lambda count=count: beat_times(made[:count], RATE), 3 if count > 64 else 5, device) / count
        print(f"ours on {device:<4} {count:6d} clips  {each * 1e3:8.1f} ms a clip   {alone / each:6.1f} times faster")


if __name__ == "__main__":
    main()
