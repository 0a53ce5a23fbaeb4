"""MTG-Jamendo's 50 most frequent tags as MARBLE v2 sets them: every 30-s window is trained on, logits are averaged.

At most 20 epochs. v2 keeps a last window from 24 s on, padded; here one that is shorter than 30 s is left out.
Otherwise as the task without -v2; v2's fixed layer and learning rate are not taken over: the protocol searches both.
"""

from carrara.bench.tasks.mtg_jamendo.top50 import TASK as V1

TASK = V1.model_copy(
    update={
        "version": 1,
        "aggregate": "logit",
        "partial_window": "drop",
        "max_epochs": 20,
    }
)
