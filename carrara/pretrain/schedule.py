"""How the learning rate goes: up in a straight line, then down to nothing along a power of what is left."""

from __future__ import annotations


def learning_rate(step: int, steps: int, highest: float, warmup: float, power: float = 1.0) -> float:
    """Return the learning rate of a step (fairseq's polynomial decay; pretraining.md, section 3.6).

    Args:
        step: number of the step, from 0.
        steps: of the whole run; at that step the rate would be 0.
        highest: the rate at the end of the warm-up.
        warmup: share of the steps that it takes to get there.
        power: of the decay.
    """
    rising = round(warmup * steps)
    if step < rising:
        return highest * (step + 1) / rising
    return highest * ((steps - step) / (steps - rising)) ** power
