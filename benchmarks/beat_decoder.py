"""Beat decoding: milliseconds a 30-s clip at 75 frames a second, beside a Viterbi that moves every state every frame.

    python benchmarks/beat_decoder.py               one core; 1, 16, 64 and 512 clips at once
    python benchmarks/beat_decoder.py --device cuda

The peer is the same model as a NumPy program over all 3,193 states at 75 frames a second: positions shift, beats begin
with the best change of interval, back pointers are kept. Both find the same beats, which is checked. The goal is 20 ms.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from steps import describe_run

from carrara.bench.beat_decoder import BEAT, beat_times, tempo_space

RATE, SECONDS, GOAL = 75.0, 30, 20


def make_clips(count: int, device: str) -> list[torch.Tensor]:
    """Return logits as a probe may give them: beats of some tempo, weak and strong, in noise."""
    rng = np.random.default_rng(0)
    clips = []
    for _ in range(count):
        logits = rng.normal(-3, 1.5, round(RATE * SECONDS)).astype(np.float32)
        beats = np.arange(rng.uniform(0, 0.5), SECONDS - 0.1, 60 / rng.uniform(60, 200))
        logits[np.round(beats * RATE).astype(int)] += rng.uniform(0, 8, len(beats))
        clips.append(torch.from_numpy(logits).to(device))
    return clips


def state_by_state(logits: np.ndarray) -> np.ndarray:
    """Return the first frame of each beat that begins in the clip, by a Viterbi over every state."""
    space = tempo_space(RATE)
    intervals, change_TT = space.interval_T.numpy(), space.log_change_TT.numpy()
    first = np.concatenate(([0], np.cumsum(intervals)[:-1]))
    last = first + intervals - 1
    position = np.arange(intervals.sum()) - np.repeat(first, intervals)
    beat = position < np.repeat(intervals, intervals) / BEAT.observation
    log_p = -np.logaddexp(0, -logits.astype(np.float64))
    log_rest = -np.logaddexp(0, logits.astype(np.float64)) - math.log(BEAT.observation - 1)
    score = np.where(beat, log_p[0], log_rest[0])
    backs = []
    for frame in range(1, len(logits)):
        shifted = np.roll(score, 1)
        entry = score[last][:, None] + change_TT
        shifted[first] = entry.max(0)
        backs.append(entry.argmax(0))
        score = shifted + np.where(beat, log_p[frame], log_rest[frame])
    tempo_of = {int(state): tempo for tempo, state in enumerate(first)}
    state, starts = int(score.argmax()), []
    for frame in range(len(logits) - 1, -1, -1):
        if state in tempo_of:
            starts.append(frame)
            state = int(last[backs[frame - 1][tempo_of[state]]]) if frame else state
        else:
            state -= 1
    return np.array(starts[::-1])


def best_seconds(work: Callable[[], Any], times: int, device: str) -> float:
    """Return the least seconds of several runs."""
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def main() -> None:
    """Check that both agree, time both and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="where our decoder runs (default cpu)")
    parser.add_argument("--clips", type=int, nargs="+", default=[1, 16, 64, 512], help="how many at once")
    parser.add_argument("-o", "--output", type=Path, help="JSON file of the numbers")
    arguments = parser.parse_args()
    device = arguments.device
    torch.set_num_threads(1)
    examples = make_clips(max(3, *arguments.clips), device)
    for logits in examples[:3]:
        plain = state_by_state(logits.cpu().numpy()) / RATE
        ours = beat_times([logits], RATE)[0]
        # The peak of a beat is at most a sixteenth of the longest interval after its start.
        distance = np.abs(ours[:, None] - plain).min(0)
        if not (distance < 6 / RATE).all():
            raise SystemExit("the two decoders disagree")
    alone = best_seconds(lambda: state_by_state(examples[0].cpu().numpy()), 3, "cpu")
    print(f"{len(examples[0])} frames a clip, one core; the goal is {GOAL} ms a clip")
    print(f"state by state    1 clip   {alone * 1e3:8.1f} ms a clip")
    result: dict[str, Any] = {"state_by_state_ms": round(alone * 1e3, 2), "ours_ms": {}, "goal_ms": GOAL}
    for count in arguments.clips:
        each = (
            best_seconds(lambda count=count: beat_times(examples[:count], RATE), 3 if count > 64 else 5, device) / count
        )
        print(f"ours on {device:<4} {count:6d} clips  {each * 1e3:8.1f} ms a clip   {alone / each:6.1f} times faster")
        result["ours_ms"][count] = round(each * 1e3, 2)
    if arguments.output:
        arguments.output.write_text(json.dumps(result | describe_run(torch.device(device)), indent=1) + "\n")


if __name__ == "__main__":
    main()
