"""How the learning rate goes: up in a straight line, then down along a power of what is left, or held and let go."""

from __future__ import annotations

LEAST = 0.01


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


def tri_stage(step: int, steps: int, highest: float, warmup: float, hold: float) -> float:
    """Return the learning rate of a step: up from a hundredth, held, and down to a hundredth by one factor a step.

    It is data2vec's and wav2vec 2.0's (fairseq's tri-stage schedule; pretraining.md, section 3.7).

    Args:
        step: number of the step, from 0.
        steps: of the whole run; from that step on the rate would be a hundredth of the highest.
        highest: the rate while it is held.
        warmup, hold: shares of the steps; the rest is for the way down.
    """
    rising, held = round(warmup * steps), round(hold * steps)
    if step < rising:
        return highest * (LEAST + (1 - LEAST) * step / rising)
    falling = steps - rising - held
    return highest * LEAST ** (max(step - rising - held, 0) / falling) if falling > 0 else highest
